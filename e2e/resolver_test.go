//go:build e2e && linux

package e2e

import (
	"net"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// resolver is a DNS server with moods.
type resolver struct{ mood atomic.Value }

// The moods: answer with the address, or in one of three ways not.
const (
	dnsAnswers = "answers"
	dnsNoName  = "no such name"
	dnsFails   = "server failure"
	dnsSilent  = "silent"
)

// newResolver serves DNS on the host's end of a cable: every name is that address.
func newResolver(t *testing.T, p *place, mood string) *resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", p.host+":53")
	if err != nil {
		t.Fatal(err)
	}
	r := new(resolver)
	r.mood.Store(mood)
	done := make(chan struct{})
	t.Cleanup(func() { _ = conn.Close(); <-done })
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if answer := r.answer(buf[:n], p.host); answer != nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	}()
	return r
}

func (r *resolver) answer(query []byte, host string) []byte {
	var m dnsmessage.Message
	mood := r.mood.Load()
	if m.Unpack(query) != nil || len(m.Questions) != 1 || mood == dnsSilent {
		return nil
	}
	q := m.Questions[0]
	m.Response, m.Additionals = true, nil
	switch {
	case mood == dnsNoName:
		m.RCode = dnsmessage.RCodeNameError
	case mood == dnsFails:
		m.RCode = dnsmessage.RCodeServerFailure
	case q.Type == dnsmessage.TypeA:
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
			Body:   &dnsmessage.AResource{A: [4]byte(net.ParseIP(host).To4())},
		}}
	}
	packed, _ := m.Pack()
	return packed
}
