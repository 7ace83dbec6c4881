package client

import (
	"context"
	"errors"
	"net"
	"net/http/httptrace"
	"sync"
)

// lookups knows which name a hop is asking DNS for. A resolver that is silent
// takes as long as all of the dialing may, and then the error would say that the
// server did not answer.
type lookups struct {
	mu   sync.Mutex
	name string // "" when none is under way
}

// dial makes a TCP connection.
func (l *lookups) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	set := func(name string) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.name = name
	}
	return new(net.Dialer).DialContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		DNSStart: func(i httptrace.DNSStartInfo) { set(i.Host) },
		DNSDone:  func(httptrace.DNSDoneInfo) { set("") },
	}), network, addr)
}

// blame returns what to say in place of err when time was up while DNS was asked.
func (l *lookups) blame(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.name == "" || !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return &CarrierError{Op: "dial", Err: &net.DNSError{Err: "no answer", Name: l.name, IsTimeout: true}}
}
