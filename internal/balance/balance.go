// Package balance spreads TCP connections over the nodes of a cluster, in turn,
// and leaves out those that take no devices. It is for the demo and for tests:
// in earnest that is haproxy's work, or the cloud's.
package balance

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	lookEvery   = 200 * time.Millisecond
	lookTime    = time.Second
	dialTimeout = 2 * time.Second
)

// Balancer is a listener in front of nodes. Its owner closes it.
type Balancer struct {
	l      net.Listener
	path   string // of the carriers: a node that takes devices answers 405 to HEAD
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex
	nodes []string
	down  map[string]bool
	next  int
	conns map[net.Conn]struct{}
}

// Start listens on loopback, in front of the nodes at these addresses, which
// speak plain HTTP.
func Start(ctx context.Context, path string, nodes ...string) (*Balancer, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b := &Balancer{l: l, path: path, nodes: nodes, down: map[string]bool{}, conns: map[net.Conn]struct{}{}}
	ctx, b.cancel = context.WithCancel(context.Background())
	for _, n := range nodes {
		b.wg.Go(func() { b.look(ctx, n) })
	}
	b.wg.Go(func() { b.accept(ctx) })
	return b, nil
}

// Addr is where it listens.
func (b *Balancer) Addr() string { return b.l.Addr().String() }

// Close ends all connections and waits for everything that Start began.
func (b *Balancer) Close() {
	b.cancel()
	_ = b.l.Close()
	b.mu.Lock()
	for c := range b.conns {
		_ = c.Close()
	}
	b.conns = nil
	b.mu.Unlock()
	b.wg.Wait()
}

// look notes whether a node takes devices.
func (b *Balancer) look(ctx context.Context, node string) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	c := &http.Client{Timeout: lookTime, Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		up := false
		if req, err := http.NewRequestWithContext(ctx, http.MethodHead, "http://"+node+b.path, nil); err == nil {
			if resp, err := c.Do(req); err == nil {
				up = resp.StatusCode == http.StatusMethodNotAllowed
				_ = resp.Body.Close()
			}
		}
		b.mu.Lock()
		b.down[node] = !up
		b.mu.Unlock()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (b *Balancer) accept(ctx context.Context) {
	for {
		conn, err := b.l.Accept()
		if err != nil {
			return
		}
		b.wg.Go(func() { b.serve(ctx, conn) })
	}
}

// keep says whether the connection may live; Close ends it then.
func (b *Balancer) keep(c net.Conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conns == nil {
		return false
	}
	b.conns[c] = struct{}{}
	return true
}

func (b *Balancer) forget(c net.Conn) {
	_ = c.Close()
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.conns, c)
}

func (b *Balancer) serve(ctx context.Context, conn net.Conn) {
	defer b.forget(conn)
	if !b.keep(conn) {
		return
	}
	for range len(b.nodes) {
		node := b.turn()
		if node == "" {
			return
		}
		to, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", node)
		if err != nil {
			continue
		}
		defer b.forget(to)
		if !b.keep(to) {
			return
		}
		var up sync.WaitGroup
		up.Go(func() { b.copy(to, conn) })
		b.copy(conn, to)
		up.Wait()
		return
	}
}

// copy passes bytes on, and the end; a broken connection breaks both.
func (b *Balancer) copy(to, from net.Conn) {
	if _, err := io.Copy(to, from); err != nil {
		_, _ = to.Close(), from.Close()
		return
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

// turn is the node whose turn it is; empty when none takes devices.
func (b *Balancer) turn() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	for range b.nodes {
		b.next++
		if n := b.nodes[b.next%len(b.nodes)]; !b.down[n] {
			return n
		}
	}
	return ""
}
