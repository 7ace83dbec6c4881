package server_test

import (
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/outer"
	"github.com/atls-ws/atls-ws/server"
)

// listening serves s over its own Listener and returns its URL.
func listening(t *testing.T, s *site) string {
	t.Helper()
	pair, err := s.ca.Server([]string{"127.0.0.1"}, 0)
	outer := &tls.Config{Certificates: []tls.Certificate{cert(t, pair, err)}, NextProtos: []string{"http/1.1"}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{Handler: s.srv, ReadHeaderTimeout: 10 * time.Second}
	tl := s.srv.Listener(l, outer)
	var wg sync.WaitGroup
	wg.Go(func() { _ = web.Serve(tl) })
	t.Cleanup(func() { _ = s.srv.Close(); _ = web.Close(); _ = tl.Close(); wg.Wait() })
	return "https://" + l.Addr().String()
}

func TestListenerServesBothCarriers(t *testing.T) {
	s := newSite(t, &server.Config{})
	url := listening(t, s)
	for _, carrier := range []client.Carrier{client.CarrierWebSocket, client.CarrierPOST} {
		cfg := s.config(t, "device-1")
		cfg.URL, cfg.Carrier = url, carrier
		sess := s.dial(t, cfg)
		if in := sess.Ready().Intercepted; in == nil || *in {
			t.Errorf("%s: the outer TLS is not compared, or not the same: %v", carrier, in)
		}
		_ = sess.Close()
	}
}

// Strangers that say nothing, or nonsense, in the outer handshake hold no turn.
func TestSilentOuterHandshakesKeepNobodyOut(t *testing.T) {
	s := newSite(t, &server.Config{})
	url := listening(t, s)
	for i := range 50 {
		c, err := net.Dial("tcp", strings.TrimPrefix(url, "https://"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		if i%2 == 0 {
			_, _ = c.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
		} else {
			_, _ = c.Write([]byte{22, 3, 1}) // a record that never goes on
		}
	}
	cfg := s.config(t, "device-1")
	cfg.URL = url
	_ = s.dial(t, cfg).Close()
}

func TestPlainHTTPAtTheListenerIsAnswered(t *testing.T) {
	url := listening(t, newSite(t, &server.Config{}))
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	answer, _ := io.ReadAll(c)
	if !strings.Contains(string(answer), "HTTP request to an HTTPS server") {
		t.Errorf("answer %q", answer)
	}
}

// helloOnly sends and hears nothing.
type helloOnly struct{ net.Conn }

func (helloOnly) Read([]byte) (int, error) { return 0, io.EOF }

func TestShutdownEndsHandshakesOfTheListener(t *testing.T) {
	s := newSite(t, &server.Config{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	hello := make(chan struct{})
	tl := s.srv.Listener(l, &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		close(hello)
		pair, err := s.ca.Server([]string{"127.0.0.1"}, 0)
		return &tls.Config{Certificates: []tls.Certificate{cert(t, pair, err)}}, nil
	}})
	web := &http.Server{Handler: s.srv, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- web.Serve(tl) }()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		_ = tls.Client(helloOnly{c}, &tls.Config{InsecureSkipVerify: true}).Handshake() // it gets no further
	}()
	<-wrote
	<-hello
	if err := web.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
	if _, err := tl.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection is open")
	}
}

// A program's mistake in what chooses the certificate costs a connection, as it
// does below net/http, and neither the process nor the turns.
func TestPanicInAnOuterHandshakeCostsOneConnection(t *testing.T) {
	s := newSite(t, &server.Config{})
	pair, err := s.ca.Server([]string{"127.0.0.1"}, 0)
	outer := cert(t, pair, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tl := s.srv.Listener(l, &tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if h.ServerName == "panic" {
			panic("certificate")
		}
		return &outer, nil
	}})
	defer func() { _ = tl.Close() }()
	dial := func(name string) error {
		c, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{ServerName: name, InsecureSkipVerify: true}) // only whether it answers matters
		if err == nil {
			_ = c.Close()
		}
		return err
	}
	for range 2*runtime.GOMAXPROCS(0) + 1 { // more than there are turns
		if dial("panic") == nil {
			t.Error("a handshake without a certificate")
		}
	}
	if err := dial("other"); err != nil {
		t.Error(err)
	}
}

// said keeps what is logged.
type said struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *said) count(text string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Count(s.text.String(), text)
}

// shortListener has no descriptor for a while.
type shortListener struct {
	net.Listener
	times atomic.Int32
}

func (l *shortListener) Accept() (net.Conn, error) {
	if l.times.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return l.Listener.Accept()
}

func TestListenerOutlivesAShortageOfDescriptors(t *testing.T) {
	var log said
	s := newSite(t, &server.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	below, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &shortListener{Listener: below}
	l.times.Store(2)
	pair, err := s.ca.Server([]string{"127.0.0.1"}, 0)
	tl := s.srv.Listener(l, &tls.Config{Certificates: []tls.Certificate{cert(t, pair, err)}})
	c, err := tls.Dial("tcp", below.Addr().String(), &tls.Config{RootCAs: s.ca.Pool()})
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	_ = tl.Close()
	if n := log.count("too many open files"); n != 1 {
		t.Errorf("said %d times", n)
	}
}

// What wsconn gathers into one write must get to the connection below the TLS.
func TestListenerKeepsTheBatchBelow(t *testing.T) {
	s := newSite(t, &server.Config{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := s.ca.Server([]string{"127.0.0.1"}, 0)
	tl := s.srv.Listener(l, &tls.Config{Certificates: []tls.Certificate{cert(t, pair, err)}})
	defer func() { _ = tl.Close() }()
	go func() {
		if c, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{RootCAs: s.ca.Pool()}); err == nil {
			_ = c.Close()
		}
	}()
	c, err := tl.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if below, ok := outer.Lowest(c).(*outer.Batch); !ok {
		t.Errorf("below the TLS is %T", below)
	}
}
