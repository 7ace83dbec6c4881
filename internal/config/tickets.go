package config

import (
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"time"
)

const (
	ticketDay   = 24 * time.Hour // for which new tickets are encrypted with one key
	ticketDays  = 7              // crypto/tls lets no ticket live longer
	minTicket   = 32
	nextTickets = "make one with \"openssl rand -out FILE 32\" and copy it to all nodes: who has it can pass for any device"
)

// TicketKeys are the keys of the inner session tickets at a time, the first of
// them for new ones; none when no file is configured. Nodes that have the same
// file have the same keys without asking each other: those of each day, of the
// week before and, for a clock that is ahead, of the next.
func (s *Server) TicketKeys(now time.Time) ([][32]byte, error) {
	if s.Inner.Tickets == "" {
		return nil, nil
	}
	secret, err := readFile(s.Inner.Tickets, nextTickets)
	if err != nil {
		return nil, err
	}
	if len(secret) < minTicket {
		return nil, &FileError{File: s.Inner.Tickets, Err: fmt.Errorf("%d bytes, want at least %d random ones", len(secret), minTicket), Next: nextTickets}
	}
	today := now.Unix() / int64(ticketDay/time.Second)
	keys := make([][32]byte, 0, ticketDays+2)
	for _, day := range ticketOrder(today) {
		key, err := hkdf.Key(sha256.New, secret, nil, fmt.Sprintf("atls-ws session tickets of day %d", day), 32)
		if err != nil {
			return nil, fmt.Errorf("session tickets: %w", err)
		}
		keys = append(keys, [32]byte(key))
	}
	return keys, nil
}

// ticketOrder is today, tomorrow, and the days before.
func ticketOrder(today int64) []int64 {
	days := []int64{today, today + 1}
	for i := range int64(ticketDays) {
		days = append(days, today-1-i)
	}
	return days
}
