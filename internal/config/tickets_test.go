package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestTicketKeysFollowTheDay(t *testing.T) {
	s := &Server{}
	if keys, err := s.TicketKeys(time.Now()); keys != nil || err != nil {
		t.Fatalf("without a file: %d keys, %v", len(keys), err)
	}
	s.Inner.Tickets = filepath.Join(t.TempDir(), "tickets")
	if err := os.WriteFile(s.Inner.Tickets, []byte(strings.Repeat("x", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	now := time.Date(2030, 1, 2, 3, 0, 0, 0, time.UTC)
	at := func(d time.Duration) [][32]byte {
		t.Helper()
		keys, err := s.TicketKeys(now.Add(d))
		if err != nil {
			t.Fatal(err)
		}
		return keys
	}
	today := at(0)
	if !slices.Equal(today, at(20*time.Hour)) {
		t.Error("other keys on the same day")
	}
	for _, d := range []time.Duration{-24 * time.Hour, 24 * time.Hour, 6 * 24 * time.Hour, 7 * 24 * time.Hour} {
		if there := at(d); there[0] == today[0] || !slices.Contains(there, today[0]) {
			t.Errorf("%s later: today's key is new there, or unknown", d)
		}
	}
	if slices.Contains(at(9*24*time.Hour), today[0]) {
		t.Error("today's key is kept for ever")
	}
	if err := os.WriteFile(s.Inner.Tickets, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.TicketKeys(now); err == nil || !strings.Contains(err.Error(), "openssl rand") {
		t.Errorf("a short file: %v", err)
	}
}
