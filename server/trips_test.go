package server_test

import (
	"crypto/tls"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/server"
)

const far = 100 * time.Millisecond // one way

// farProxy delays all bytes by far, both ways, and counts round trips: how often
// something comes back after something was sent.
type farProxy struct {
	addr string

	mu     sync.Mutex
	asking bool
	trips  int
}

func (p *farProxy) passes(up bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !up && p.asking {
		p.trips++
	}
	p.asking = up
}

func newFarProxy(t *testing.T, to string) *farProxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &farProxy{addr: l.Addr().String()}
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	carry := func(dst, src net.Conn, up bool) {
		defer func() { _ = dst.Close() }()
		parts := make(chan []byte, 1000)
		due := make(chan time.Time, 1000)
		wg.Go(func() {
			for part := range parts {
				time.Sleep(time.Until(<-due)) // it is what the test is about
				_, _ = dst.Write(part)
			}
			_ = dst.Close()
		})
		defer close(parts)
		for {
			part := make([]byte, 64<<10)
			n, err := src.Read(part)
			if n > 0 {
				p.passes(up)
				due <- time.Now().Add(far)
				parts <- part[:n]
			}
			if err != nil {
				return
			}
		}
	}
	wg.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			there, err := net.Dial("tcp", to)
			if err != nil {
				_ = near.Close()
				return
			}
			wg.Go(func() { carry(there, near, true) })
			wg.Go(func() { carry(near, there, false) })
		}
	})
	return p
}

// Outer TLS, upgrade, inner TLS, Hello and Ready: each is a round trip after that
// of TCP, and an early hello saves one.
func TestRoundTripsToReady(t *testing.T) {
	s := newSite(t, &server.Config{})
	for early, want := range map[bool]int{false: 4, true: 3} {
		p := newFarProxy(t, strings.TrimPrefix(s.web.URL, "https://"))
		cfg := s.config(t, "device-1")
		cfg.URL, cfg.Carrier, cfg.EarlyHello = "https://"+p.addr, client.CarrierWebSocket, early
		sess := s.dial(t, cfg)
		p.mu.Lock()
		trips := p.trips
		p.mu.Unlock()
		if trips != want {
			t.Errorf("early hello %v: %d round trips, want %d", early, trips, want)
		}
		_ = sess.Close()
	}
}

// What a box does with the bytes behind an upgrade that it refuses ends in POST.
func TestEarlyHelloThatIsRefusedEndsInPOST(t *testing.T) {
	s := newSite(t, &server.Config{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer func() { _ = l.Close() }()
	box := newBox(s.web.URL)
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { box(c) })
		}
	})
	cfg := s.config(t, "device-1")
	cfg.URL, cfg.EarlyHello = "http://"+l.Addr().String(), true
	sess := s.dial(t, cfg)
	if got := sess.Hello().Carrier; got != string(client.CarrierPOST) {
		t.Errorf("carrier %s", got)
	}
	_ = sess.Close()
}

// newBox passes requests on, and answers an upgrade with 400 and the end.
func newBox(url string) func(net.Conn) {
	return func(c net.Conn) {
		defer func() { _ = c.Close() }()
		head := make([]byte, 4<<10)
		n, _ := c.Read(head)
		if strings.HasPrefix(string(head[:n]), "GET") {
			_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			return
		}
		there, err := tls.Dial("tcp", strings.TrimPrefix(url, "https://"), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}) // the box is not what is tested
		if err != nil {
			return
		}
		defer func() { _ = there.Close() }()
		_, _ = there.Write(head[:n])
		go func() { _, _ = io.Copy(there, c); _ = there.Close() }()
		_, _ = io.Copy(c, there)
	}
}
