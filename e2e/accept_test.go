//go:build e2e

package e2e

import (
	"crypto/tls"
	"net"
	"sync"
	"testing"
)

// accept is a box of our own that works on connections: each is served in a
// goroutine, and closed afterwards. With a configuration it terminates TLS. The
// end of the test closes everything and waits for it.
func accept(t *testing.T, conf *tls.Config, serve func(net.Conn)) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	open, closed := map[net.Conn]bool{}, false
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			if closed {
				_ = c.Close()
			}
			open[c] = true
			mu.Unlock()
			wg.Go(func() {
				if conf == nil {
					serve(c)
				} else {
					serve(tls.Server(c, conf))
				}
				_ = c.Close()
				mu.Lock()
				delete(open, c)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		closed = true
		for c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return ln.Addr().String()
}
