package session

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/atls-ws/atls-ws/internal/leak"
	"github.com/atls-ws/atls-ws/internal/pki"
	"github.com/atls-ws/atls-ws/internal/proto"
)

func TestMain(m *testing.M) { leak.Main(m) }

// testPKI is one CA with a server and a device.
type testPKI struct {
	ca             *pki.CA
	server, device tls.Certificate
	made           time.Time // certificates are checked as of then: a bubble's clock is elsewhere
}

var testCerts = sync.OnceValue(func() *testPKI {
	ca, err := pki.NewCA("test CA")
	check(err)
	p := &testPKI{ca: ca, made: time.Now()}
	p.server = pair(ca.Server([]string{"atls-ws"}, time.Hour))
	p.device = pair(ca.Device("device-1", time.Hour))
	return p
})

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func pair(p *pki.Pair, err error) tls.Certificate {
	check(err)
	c, err := p.TLS()
	check(err)
	return c
}

func (p *testPKI) then() time.Time { return p.made }

func (p *testPKI) clientTLS() *tls.Config {
	return &tls.Config{Time: p.then, RootCAs: p.ca.Pool(), ServerName: "atls-ws", Certificates: []tls.Certificate{p.device}}
}

func (p *testPKI) serverTLS() *tls.Config {
	return &tls.Config{Time: p.then, ClientCAs: p.ca.Pool(), Certificates: []tls.Certificate{p.server}}
}

// tcpPipe is a loopback connection: unlike net.Pipe it has buffers, as carriers do.
func tcpPipe(tb testing.TB) (net.Conn, net.Conn) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	return a, b
}

type ends struct{ client, server *Session }

// connect makes a session over a and b; the configurations may be nil.
func connect(tb testing.TB, a, b net.Conn, cc, sc *Config) ends {
	tb.Helper()
	c, s, cerr, serr := try(tb, a, b, cc, sc)
	if cerr != nil || serr != nil {
		tb.Fatalf("client: %v; server: %v", cerr, serr)
	}
	tb.Cleanup(func() { _ = c.Close(); _ = s.Close() })
	return ends{c, s}
}

func try(tb testing.TB, a, b net.Conn, cc, sc *Config) (c, s *Session, cerr, serr error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if cc == nil {
		cc = &Config{}
	}
	if sc == nil {
		sc = &Config{}
	}
	if cc.TLS == nil {
		cc.TLS = testCerts().clientTLS()
	}
	if sc.TLS == nil {
		sc.TLS = testCerts().serverTLS()
	}
	var wg sync.WaitGroup
	wg.Go(func() { s, serr = Server(ctx, b, sc) })
	c, cerr = Client(ctx, a, cc)
	wg.Wait()
	return c, s, cerr, serr
}

func echo(tb testing.TB, m *Mux, service string) {
	tb.Helper()
	l, err := m.Listen(service)
	if err != nil {
		tb.Fatal(err)
	}
	done := make(chan struct{})
	tb.Cleanup(func() { _ = l.Close(); <-done })
	go func() {
		defer close(done)
		var wg sync.WaitGroup
		defer wg.Wait()
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = conn.Close() }()
				if _, err := io.Copy(conn, conn); err == nil {
					_ = conn.(*Stream).CloseWrite()
				}
			})
		}
	}()
}

func TestStreamIsANetConn(t *testing.T) {
	for _, carrier := range []string{"net.Pipe", "tcp"} {
		t.Run(carrier, func(t *testing.T) {
			nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
				a, b := net.Pipe()
				if carrier == "tcp" {
					a, b = tcpPipe(t)
				}
				mux := new(Mux)
				e := connect(t, a, b, nil, &Config{Mux: mux})
				l, err := mux.Listen("x")
				if err != nil {
					return nil, nil, nil, err
				}
				c1, err := e.client.Dial(t.Context(), "x")
				if err != nil {
					return nil, nil, nil, err
				}
				c2, err := l.Accept()
				return c1, c2, func() {
					_ = c1.Close()
					_ = c2.Close()
					_ = l.Close()
					_ = e.client.Close()
					_ = e.server.Close()
				}, err
			})
		})
	}
}

func TestBulkBothWays(t *testing.T) {
	a, b := tcpPipe(t)
	mux := new(Mux)
	echo(t, mux, "echo")
	e := connect(t, a, b, nil, &Config{Mux: mux})
	conn, err := e.client.Dial(t.Context(), "echo")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	data := make([]byte, 4<<20)
	rnd := rand.NewChaCha8([32]byte{1})
	_, _ = rnd.Read(data)
	go func() {
		_, _ = conn.Write(data)
		_ = conn.(*Stream).CloseWrite()
	}()
	back, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	if sha256.Sum256(back) != sha256.Sum256(data) {
		t.Fatalf("%d bytes came back changed, want %d", len(back), len(data))
	}
}

func TestSignalsBothWays(t *testing.T) {
	a, b := net.Pipe()
	cm, sm := new(Mux), new(Mux)
	var got []string
	cm.OnSignal("a", func(ctx context.Context, s Signal) (string, error) {
		if sess, ok := FromContext(ctx); !ok || sess.Device() != "device-1" {
			t.Errorf("handler's session: %v %v", sess, ok)
		}
		got = append(got, string(s.Data))
		return "did " + string(s.Data), nil
	})
	cm.OnSignal("no", func(context.Context, Signal) (string, error) { return "", errors.New("not today") })
	cm.OnSignal("panic", func(context.Context, Signal) (string, error) { panic("oh") })
	sm.OnSignal(AnySignal, func(_ context.Context, s Signal) (string, error) { return s.Name, nil })
	e := connect(t, a, b, &Config{Mux: cm}, &Config{Mux: sm, Admit: func(tls.ConnectionState, *Hello) (string, error) { return "device-1", nil }})

	ctx := t.Context()
	if r, err := e.server.Signal(ctx, Signal{Name: "a", Data: []byte("this")}); err != nil || r != "did this" {
		t.Fatalf("reply %q, %v", r, err)
	}
	if r, err := e.client.Signal(ctx, Signal{Name: "up"}); err != nil || r != "up" {
		t.Fatalf("reply %q, %v", r, err)
	}
	for _, tt := range []struct {
		sig  Signal
		code Code
		text string
	}{
		{Signal{Name: "no"}, proto.Refused, "not today"},
		{Signal{Name: "panic"}, proto.Refused, "failed"},
		{Signal{Name: "unknown"}, proto.NotFound, "no handler"},
		{Signal{Name: "a", Expiry: time.Now().Add(-time.Second)}, proto.Expired, "expired"},
	} {
		_, err := e.server.Signal(ctx, tt.sig)
		var r *RefusedError
		if !errors.As(err, &r) || r.Code != tt.code || !strings.Contains(r.Text, tt.text) {
			t.Errorf("%s: %v, want %s %q", tt.sig.Name, err, tt.code, tt.text)
		}
	}
	if _, err := e.server.Signal(ctx, Signal{Name: "a", Data: make([]byte, proto.MaxData+1)}); !errors.Is(err, proto.ErrTooLarge) {
		t.Errorf("oversize: %v", err)
	}
	if len(got) != 1 {
		t.Errorf("handled %q", got)
	}
}

// Signals of the largest size, more than the window holds, with a slow
// handler: order holds, and a sender that gives up does not stop the rest.
func TestSignalsWaitForASlowHandler(t *testing.T) {
	a, b := net.Pipe()
	cm := new(Mux)
	gate := make(chan struct{})
	var order []int
	entered := make(chan struct{}, 9)
	cm.OnSignal("s", func(_ context.Context, s Signal) (string, error) {
		entered <- struct{}{}
		<-gate
		order = append(order, int(s.Seq))
		return "", nil
	})
	e := connect(t, a, b, &Config{Mux: cm}, nil)
	short, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { <-entered; cancel() })
	if _, err := e.server.Signal(short, Signal{Name: "s", Seq: 0}); !errors.Is(err, context.Canceled) {
		t.Fatalf("want canceled, got %v", err)
	}
	for i := 1; i <= 8; i++ {
		wg.Go(func() {
			if _, err := e.server.Signal(t.Context(), Signal{Name: "s", Seq: uint64(i), Data: make([]byte, proto.MaxData)}); err != nil {
				t.Error(err)
			}
		})
	}
	close(gate)
	wg.Wait()
	if len(order) != 9 || order[0] != 0 {
		t.Fatalf("handled %v", order)
	}
	if n := len(e.server.signals.get(newSignalSender).tokens); n != 0 {
		t.Errorf("%d tokens still taken", n)
	}
}

func TestDialRefusals(t *testing.T) {
	a, b := net.Pipe()
	e := connect(t, a, b, nil, nil)
	_, err := e.client.Dial(t.Context(), "ssh")
	var r *RefusedError
	if !errors.As(err, &r) || r.Code != proto.NotFound {
		t.Errorf("no such service: %v", err)
	}
	if _, err := e.client.Dial(t.Context(), ""); err == nil {
		t.Error("empty name was dialed")
	}
	_ = e.server.Close()
	<-e.client.Done()
	if _, err := e.client.Dial(t.Context(), "ssh"); !errors.Is(err, ErrPeerGone) {
		t.Errorf("after the end: %v", err)
	}
}

func TestStreamCap(t *testing.T) {
	a, b := net.Pipe()
	mux := new(Mux)
	echo(t, mux, "echo")
	e := connect(t, a, b, nil, &Config{Mux: mux, Streams: 3})
	var conns []net.Conn
	for range 3 {
		c, err := e.client.Dial(t.Context(), "echo")
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	_, err := e.client.Dial(t.Context(), "echo")
	var r *RefusedError
	if !errors.As(err, &r) || r.Code != proto.Busy {
		t.Fatalf("over the cap: %v", err)
	}
	for _, c := range conns {
		_ = c.Close()
	}
	// The slots come back.
	eventually(t, func() bool { return e.server.Streams() == 0 })
	c, err := e.client.Dial(t.Context(), "echo")
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
}

func eventually(t *testing.T, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("did not happen")
		}
	}
}

func TestHandshakeRefusals(t *testing.T) {
	p := testCerts()
	other, err := pki.NewCA("other CA")
	check(err)
	rogue := p.clientTLS()
	rogue.Certificates = []tls.Certificate{pair(other.Device("device-1", time.Hour))}
	wrongCA := p.clientTLS()
	wrongCA.RootCAs = other.Pool()
	wrongName := p.clientTLS()
	wrongName.ServerName = "elsewhere"
	for _, tt := range []struct {
		name           string
		cc, sc         *Config
		client, server string
	}{
		{"rogue device", &Config{TLS: rogue}, nil, "the peer refused: remote error: tls: ", "certificate signed by unknown authority"},
		{"wrong CA", &Config{TLS: wrongCA}, nil, "certificate signed by unknown authority", "the peer refused: remote error: tls: "},
		{"wrong name", &Config{TLS: wrongName}, nil, "not elsewhere", "the peer refused: remote error: tls: "},
		{"not admitted", nil, &Config{Admit: func(tls.ConnectionState, *Hello) (string, error) { return "", errors.New("revoked") }}, "not allowed: revoked", "not allowed: revoked"},
		{"hello too large", &Config{Hello: func() Hello { return Hello{Software: strings.Repeat("x", 20<<10)} }}, nil, "length over its limit", "waiting for hello"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := tcpPipe(t)
			c, s, cerr, serr := try(t, a, b, tt.cc, tt.sc)
			if c != nil || s != nil {
				t.Fatal("a session was made")
			}
			if !strings.Contains(fmt.Sprint(cerr), tt.client) {
				t.Errorf("client says %v, want %q", cerr, tt.client)
			}
			if !strings.Contains(fmt.Sprint(serr), tt.server) {
				t.Errorf("server says %v, want %q", serr, tt.server)
			}
		})
	}
}

func TestGarbageInsteadOfHandshake(t *testing.T) {
	a, b := tcpPipe(t)
	go func() {
		_, _ = a.Write(bytes.Repeat([]byte("garbage "), 100))
		_, _ = io.Copy(io.Discard, a)
		_ = a.Close()
	}()
	_, err := Server(t.Context(), b, &Config{TLS: testCerts().serverTLS()})
	if err == nil || !strings.Contains(err.Error(), "inner handshake") {
		t.Fatal(err)
	}
}

func TestSilenceBeforeReadyEndsWithContext(t *testing.T) {
	a, b := tcpPipe(t)
	defer func() { _ = a.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := Server(ctx, b, &Config{TLS: testCerts().serverTLS()})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
}

func TestCloseWhileOpenEndsStreamsWithTheReason(t *testing.T) {
	a, b := net.Pipe()
	mux := new(Mux)
	echo(t, mux, "echo")
	e := connect(t, a, b, nil, &Config{Mux: mux})
	conn, err := e.client.Dial(t.Context(), "echo")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = e.client.Close() }()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, ErrClosed) {
		t.Errorf("read: %v, want ErrClosed", err)
	}
	<-e.server.Done()
	if !errors.Is(e.server.Err(), ErrPeerGone) {
		t.Errorf("server's Err: %v", e.server.Err())
	}
}

func TestByeSaysWhy(t *testing.T) {
	a, b := net.Pipe()
	e := connect(t, a, b, nil, nil)
	_ = e.server.CloseBye(t.Context(), proto.Replaced, "newer")
	<-e.client.Done()
	if !errors.Is(e.client.Err(), ErrReplaced) {
		t.Errorf("client's Err: %v", e.client.Err())
	}
}

func TestDrain(t *testing.T) {
	a, b := net.Pipe()
	e := connect(t, a, b, nil, nil)
	if err := e.server.Drain(t.Context(), 2*time.Second, time.Second); err != nil {
		t.Fatal(err)
	}
	<-e.client.Drained()
	if d := e.client.ReconnectIn(); d < 2*time.Second || d >= 3*time.Second {
		t.Errorf("reconnect in %s", d)
	}
	if e.client.Err() != nil {
		t.Error("drain ended the session")
	}
}
