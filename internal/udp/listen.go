package udp

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// maxFlows is how many flows one port has; a further one ends the one that was
// idle for longest.
const maxFlows = 128

const retryAfter = time.Second

// Listener gives each address that sends to a UDP port a flow of its own.
type Listener struct {
	// Conn is the port; Serve closes it.
	Conn *net.UDPConn
	// Dial makes a flow's stream.
	Dial func(ctx context.Context) (net.Conn, error)
	// Logger says when a stream cannot be made.
	Logger *slog.Logger

	mu    sync.Mutex
	flows map[netip.AddrPort]*flow
	wg    sync.WaitGroup
}

// Serve carries datagrams until ctx ends; nothing of it runs when it returns.
func (l *Listener) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer l.wg.Wait()
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = l.Conn.Close() })()
	l.flows = map[netip.AddrPort]*flow{}
	buf := make([]byte, 64<<10)
	for {
		n, from, err := l.Conn.ReadFromUDPAddrPort(buf)
		if refused(err) {
			continue
		}
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		l.flow(ctx, from).offer(buf[:n])
	}
}

// flow returns the flow of an address, or makes it.
func (l *Listener) flow(ctx context.Context, from netip.AddrPort) *flow {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f := l.flows[from]; f != nil {
		return f
	}
	if len(l.flows) >= maxFlows {
		l.evictLocked()
	}
	f := newFlow()
	l.flows[from] = f
	l.wg.Go(func() { l.serve(ctx, f, from) })
	return f
}

func (l *Listener) evictLocked() {
	var oldest netip.AddrPort
	var f *flow
	for a, candidate := range l.flows {
		if f == nil || candidate.moved.Load() < f.moved.Load() {
			oldest, f = a, candidate
		}
	}
	delete(l.flows, oldest)
	f.close()
}

func (l *Listener) serve(ctx context.Context, f *flow, from netip.AddrPort) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, f.close)()
	l.wg.Go(func() { // a flow that is pushed out ends its dialing too
		defer cancel()
		select {
		case <-f.done:
		case <-ctx.Done():
		}
	})
	stream, err := l.Dial(ctx)
	switch {
	case err != nil:
		if ctx.Err() == nil {
			l.Logger.Warn("no connection for the datagrams", "from", from.String(), "err", err)
		}
		l.pause(f)
	case f.attach(stream):
		_ = f.run(func(d []byte) { _, _ = l.Conn.WriteToUDPAddrPort(d, from) })
	}
	l.mu.Lock()
	if l.flows[from] == f {
		delete(l.flows, from)
	}
	l.mu.Unlock()
	f.close()
}

// pause keeps a flow without a stream for a moment, so that a sender which does
// not stop makes no attempt with every datagram.
func (l *Listener) pause(f *flow) {
	t := time.NewTimer(retryAfter)
	defer t.Stop()
	select {
	case <-t.C:
	case <-f.done:
	}
}
