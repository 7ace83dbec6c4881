package client

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/server"
)

// testSite is a server behind a box whose manners change.
type testSite struct {
	t   *testing.T
	srv *server.Server
	web *httptest.Server

	mu       sync.Mutex
	noWS     bool // the box strips upgrades
	noPOST   bool // the box forbids POST
	requests []string
	conns    map[net.Conn]bool // that are open at the box
	gone     []error           // why sessions ended, as the server saw it
}

func newTestSite(t *testing.T) *testSite {
	t.Helper()
	s := &testSite{t: t, conns: map[net.Conn]bool{}}
	mux := new(server.Mux)
	ln, err := mux.Listen("echo")
	if err != nil {
		t.Fatal(err)
	}
	var echoes sync.WaitGroup
	echoes.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			echoes.Go(func() { _, _ = io.Copy(c, c); _ = c.Close() })
		}
	})
	s.srv, err = server.New(&server.Config{TLS: serverTLS(t), Mux: mux, Hooks: server.Hooks{
		Disconnected: func(_ *server.Session, err error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.gone = append(s.gone, err)
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	s.web = httptest.NewUnstartedServer(http.HandlerFunc(s.box))
	s.web.TLS = &tls.Config{NextProtos: []string{"http/1.1"}}
	s.web.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.web.Config.ConnState = func(c net.Conn, state http.ConnState) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if state == http.StateClosed { // hijacked ones stay
			delete(s.conns, c)
		} else {
			s.conns[c] = true
		}
	}
	s.web.StartTLS()
	t.Cleanup(func() { _ = s.srv.Close(); s.web.Close(); _ = ln.Close(); echoes.Wait() })
	return s
}

func (s *testSite) box(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	noWS, noPOST := s.noWS, s.noPOST
	s.requests = append(s.requests, r.Method)
	s.mu.Unlock()
	switch {
	case r.Method == http.MethodGet && noWS:
		r.Header.Del("Upgrade")
	case r.Method == http.MethodPost && noPOST:
		http.Error(w, "no", http.StatusForbidden)
		return
	}
	s.srv.ServeHTTP(w, r)
}

// manners sets the box's, and forgets the requests so far.
func (s *testSite) manners(noWS, noPOST bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noWS, s.noPOST, s.requests = noWS, noPOST, nil
}

// asked is the methods of the requests since the last change of manners, each
// run of the same once.
func (s *testSite) asked() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(slices.Compact(slices.Clone(s.requests)), " ")
}

// cut ends all connections at the box.
func (s *testSite) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.Close()
	}
	clear(s.conns)
}

func (s *testSite) config() *Config {
	return &Config{URL: s.web.URL, TLS: deviceTLS(s.t), Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }}
}

// run keeps a client until the test ends.
func (s *testSite) run(again time.Duration) *Client {
	s.t.Helper()
	c, err := New(s.config())
	if err != nil {
		s.t.Fatal(err)
	}
	c.paths.again = again
	s.runs(c)
	return c
}

// runs runs a client until the test ends.
func (s *testSite) runs(c *Client) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	s.t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			s.t.Errorf("Run: %v", err)
		}
		if c.Session() != nil {
			s.t.Error("a session is left")
		}
	})
}

// over waits until the client has a session over a carrier, that is not old.
func (s *testSite) over(c *Client, kind Carrier, old *Session) *Session {
	s.t.Helper()
	var got *Session
	s.eventually(func() bool {
		got = c.Session()
		return got != nil && got != old && got.Hello().Carrier == string(kind)
	})
	return got
}

func (s *testSite) eventually(is func() bool) {
	s.t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatal("did not happen")
		}
	}
}

func echoes(t *testing.T, c net.Conn, text string) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		t.Fatalf("%q, %v", got, err)
	}
}

// TestSessionMovesToWebSocket while streams on the old one finish.
func TestSessionMovesToWebSocket(t *testing.T) {
	s := newTestSite(t)
	s.manners(true, false)
	c := s.run(20 * time.Millisecond)
	old := s.over(c, CarrierPOST, nil)
	stream, err := c.Dial(t.Context(), "echo")
	if err != nil {
		t.Fatal(err)
	}
	echoes(t, stream, "over POST")
	s.eventually(func() bool { return strings.HasPrefix(s.asked(), "GET POST GET") }) // a try that fails

	s.manners(false, false)
	moved := s.over(c, CarrierWebSocket, old)
	echoes(t, stream, "on the old session") // which nobody has ended
	later, err := c.Dial(t.Context(), "echo")
	if err != nil {
		t.Fatal(err)
	}
	echoes(t, later, "on the new one")
	if old.Err() != nil || old.Streams() != 0 {
		t.Errorf("the old session: %v", old.Err())
	}
	if now, ok := s.srv.Registry().Get("device-1"); !ok || now.ID() != moved.ID() {
		t.Error("the server uses another session")
	}
	_ = stream.Close()
	select {
	case <-old.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("the old session does not end")
	}
	echoes(t, later, "still")
	_ = later.Close()
	s.eventually(func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.gone) == 1 })
	if c.Session() != moved || errors.Is(s.gone[0], ErrReplaced) || errors.Is(old.Err(), ErrReplaced) {
		t.Errorf("the old session ended with %v, and %v at the server", old.Err(), s.gone[0])
	}
}

// TestWebSocketThatDiesYoungMakesPOSTFirst, but never the only one.
func TestWebSocketThatDiesYoungMakesPOSTFirst(t *testing.T) {
	s := newTestSite(t)
	c := s.run(time.Hour)
	ws := s.over(c, CarrierWebSocket, nil)
	s.manners(false, false)
	s.cut()
	post := s.over(c, CarrierPOST, ws)
	if got := s.asked(); got != "POST" {
		t.Errorf("requests %q, want POST alone", got)
	}
	s.manners(false, true)
	s.cut()
	again := s.over(c, CarrierWebSocket, post)
	if got := s.asked(); got != "POST GET" {
		t.Errorf("requests %q, want POST, then GET", got)
	}
	if again.Err() != nil {
		t.Error(again.Err())
	}
}

func TestFixedCarrierIsTheOnlyOne(t *testing.T) {
	for _, tc := range []struct {
		carrier      Carrier
		noWS, noPOST bool
		asked        string
		status       int // of the error, 0 for none
	}{
		{CarrierWebSocket, false, false, "GET", 0},
		{CarrierWebSocket, true, false, "GET", http.StatusUpgradeRequired},
		{CarrierPOST, false, false, "POST", 0},
		{CarrierPOST, false, true, "POST", http.StatusForbidden},
	} {
		s := newTestSite(t)
		s.manners(tc.noWS, tc.noPOST)
		conf := s.config()
		conf.Carrier = tc.carrier
		sess, err := Dial(t.Context(), conf)
		if err == nil {
			_ = sess.Close()
		}
		var got *CarrierError
		if errors.As(err, &got); (err == nil) != (tc.status == 0) || got != nil && got.StatusCode != tc.status {
			t.Errorf("%s: %v, want status %d", tc.carrier, err, tc.status)
		}
		if a := s.asked(); a != tc.asked {
			t.Errorf("%s: requests %q", tc.carrier, a)
		}
	}
}

// TestHopEndsWithItsSession: the carriers share connections, and leave none.
func TestHopEndsWithItsSession(t *testing.T) {
	for _, noWS := range []bool{false, true} {
		s := newTestSite(t)
		s.manners(noWS, false)
		sess, err := Dial(t.Context(), s.config())
		if err != nil {
			t.Fatal(err)
		}
		s.mu.Lock()
		n := len(s.conns)
		s.mu.Unlock()
		if n == 0 || n > 2 { // POST sends beside a held request
			t.Errorf("%d connections", n)
		}
		_ = sess.Close()
		s.eventually(func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			for c := range s.conns {
				// A hijacked one is the server's to close: is the other end gone?
				_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
				if _, err := c.Read(make([]byte, 1)); err != nil && !errors.Is(err, context.DeadlineExceeded) {
					var timeout net.Error
					if !errors.As(err, &timeout) || !timeout.Timeout() {
						delete(s.conns, c)
					}
				}
			}
			return len(s.conns) == 0
		})
	}
}

// TestBothErrorsAreTold when neither carrier gets through.
func TestBothErrorsAreTold(t *testing.T) {
	s := newTestSite(t)
	s.manners(true, true)
	_, err := Dial(t.Context(), s.config())
	var both *CarriersError
	var ws, post *CarrierError
	if !errors.As(err, &both) || !errors.As(both.WebSocket, &ws) || !errors.As(both.POST, &post) {
		t.Fatalf("%v", err)
	}
	if ws.StatusCode != http.StatusUpgradeRequired || post.StatusCode != http.StatusForbidden {
		t.Errorf("%v", err)
	}
}
