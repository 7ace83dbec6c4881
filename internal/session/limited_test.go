package session

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/atls-ws/atls-ws/internal/proto"
)

// heldTurns counts the turns that are held.
type heldTurns struct{ atomic.Int32 }

func (h *heldTurns) Aside() func() {
	h.Add(-1)
	return func() { h.Add(1) }
}

// stallConn sends so many bytes and no more.
type stallConn struct {
	net.Conn
	left int
}

func (c *stallConn) Write(p []byte) (int, error) {
	n := min(len(p), c.left)
	c.left -= n
	if n > 0 {
		if n, err := c.Conn.Write(p[:n]); err != nil {
			return n, err
		}
	}
	return len(p), nil
}

// A client that stalls, wherever in its handshake, holds no turn meanwhile, and
// its end leaves the turns as they were.
func TestAStalledHandshakeHoldsNoTurn(t *testing.T) {
	testCerts()
	for sent := 0; sent < 4000; sent += 123 {
		synctest.Test(t, func(t *testing.T) {
			a, b := net.Pipe()
			turns := new(heldTurns)
			acceptor, err := NewAcceptor(&Config{TLS: testCerts().serverTLS()})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			var wg sync.WaitGroup
			var ended atomic.Bool
			wg.Go(func() {
				defer ended.Store(true)
				turns.Add(1)
				in, err := acceptor.Accept(ctx, b, turns)
				if err != nil {
					return
				}
				if s, err := in.Session(ctx); err == nil {
					_ = s.Close()
				}
			})
			wg.Go(func() {
				if s, err := Client(ctx, &stallConn{newArrivingConn(a), sent}, &Config{TLS: testCerts().clientTLS()}); err == nil {
					_ = s.Close()
				}
			})
			synctest.Wait()
			if n := turns.Load(); !ended.Load() && n != 0 {
				t.Errorf("%d bytes sent: %d turns are held", sent, n)
			}
			wg.Wait()
			if n := turns.Load(); n != 1 { // the caller's
				t.Errorf("%d bytes sent: %d turns are left", sent, n)
			}
		})
	}
}

// A guest's ticket says that there was no certificate, and so opens no session.
func TestAGuestsTicketMakesNoSession(t *testing.T) {
	mux := new(Mux)
	l, err := mux.Listen("http")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	acceptor, err := NewAcceptor(&Config{TLS: testCerts().serverTLS(), Mux: mux, HTTP: "http", Guests: true})
	if err != nil {
		t.Fatal(err)
	}
	tickets := tls.NewLRUClientSessionCache(1)
	try := func(protocol string) (resumed bool, served error) {
		a, b := tcpPipe(t)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			in, err := acceptor.Accept(ctx, b, nil)
			if served = err; err == nil {
				_, _ = in.conn.Write([]byte("x"))
				_ = in.conn.Close()
			}
		})
		c := tls.Client(a, &tls.Config{
			RootCAs: testCerts().ca.Pool(), ServerName: "atls-ws", MinVersion: tls.VersionTLS13,
			NextProtos: []string{protocol}, ClientSessionCache: tickets,
		})
		_, _ = c.Read(make([]byte, 1)) // and the ticket
		resumed = c.ConnectionState().DidResume
		_ = c.Close()
		wg.Wait()
		return resumed, served
	}
	if _, err := try(proto.ALPNHTTP); err != nil {
		t.Fatal(err)
	}
	if resumed, err := try(proto.ALPNHTTP); err != nil || !resumed {
		t.Errorf("a guest who comes back: resumed %v, %v", resumed, err)
	}
	if resumed, err := try(proto.ALPNMux); err == nil || resumed {
		t.Errorf("a guest who wants a session: resumed %v, %v", resumed, err)
	}
}
