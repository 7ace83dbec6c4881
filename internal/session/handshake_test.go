package session

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// What the caller's GetConfigForClient returns is tightened too: a client
// without a certificate must get nowhere.
func TestGetConfigForClientCannotLoosen(t *testing.T) {
	p := testCerts()
	loose := p.serverTLS()
	loose.NextProtos = []string{"atls-mux/1"}
	cc := p.clientTLS()
	cc.Certificates = nil
	cc.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return new(tls.Certificate), nil }
	sc := &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return loose, nil }}
	a, b := tcpPipe(t)
	c, s, cerr, serr := try(t, a, b, &Config{TLS: cc}, &Config{TLS: sc})
	if cerr == nil || serr == nil {
		_ = c.Close()
		_ = s.Close()
		t.Fatal("a client without a certificate got a session")
	}
	if loose.ClientAuth != tls.NoClientCert {
		t.Error("the caller's configuration was changed")
	}
	a, b = tcpPipe(t)
	connect(t, a, b, nil, &Config{TLS: sc})
}

// The caller's reason for the bound is in the error.
func TestTheBoundOfReadyIsNamed(t *testing.T) {
	a, b := tcpPipe(t)
	defer func() { _ = b.Close() }()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, errors.New("no ready within 20ms"))
	defer cancel()
	_, err := Client(ctx, a, &Config{TLS: testCerts().clientTLS()})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no ready within 20ms") {
		t.Error(err)
	}
}

func TestPanicInAdmitLeavesNoConnection(t *testing.T) {
	a, b := tcpPipe(t)
	done := make(chan any)
	go func() {
		defer func() { done <- recover() }()
		_, _ = Server(t.Context(), b, &Config{TLS: testCerts().serverTLS(), Admit: func(tls.ConnectionState, *Hello) (string, error) { panic("admit") }})
	}()
	_, err := Client(t.Context(), a, &Config{TLS: testCerts().clientTLS()})
	if p := <-done; p != "admit" || err == nil {
		t.Error(p, err)
	}
	if _, err := b.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the connection is open: %v", err)
	}
	_ = b.Close()
}

// turn counts the turns that are held.
type turn struct{ held atomic.Int32 }

func (t *turn) Aside() func() {
	t.held.Add(-1)
	return func() { t.held.Add(1) }
}

// closing notes what was held when it was closed.
type closing struct {
	net.Conn
	turn *turn
	held chan int32
}

func (c *closing) Close() error {
	c.held <- c.turn.held.Load()
	return c.Conn.Close()
}

// A carrier waits for the other end's goodbye, which a stranger does not say: a
// few of them would keep all devices out.
func TestNoTurnIsHeldWhileARefusedPeerIsWaitedFor(t *testing.T) {
	a, b := tcpPipe(t)
	go func() { _, _ = a.Write(bytes.Repeat([]byte("garbage "), 100)) }()
	turns := &turn{}
	acceptor, err := NewAcceptor(&Config{TLS: testCerts().serverTLS()})
	check(err)
	conn := &closing{Conn: b, turn: turns, held: make(chan int32, 8)}
	turns.held.Add(1)
	if _, err := acceptor.Accept(t.Context(), conn, turns); err == nil {
		t.Fatal("garbage is accepted")
	}
	if held := <-conn.held; held != 0 {
		t.Errorf("%d turns were held", held)
	}
	if held := turns.held.Load(); held != 1 {
		t.Errorf("%d turns are held afterwards, want the caller's", held)
	}
}
