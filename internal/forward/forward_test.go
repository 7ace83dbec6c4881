package forward

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/proxy"

	"github.com/atls-ws/atls-ws/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

// lines is a log that a test reads while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// serve serves a port until the test ends.
func serve(t *testing.T, listen string, socks bool, dial Dial, log io.Writer) net.Addr {
	t.Helper()
	p, err := Listen(t.Context(), listen, dial, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if socks {
		p.SOCKS()
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return p.Addr()
}

func dialed(t *testing.T, a net.Addr) net.Conn {
	t.Helper()
	c, err := net.Dial(a.Network(), a.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// service is a TCP service and a Dial to it.
func service(t *testing.T, handle func(net.Conn)) Dial {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { defer func() { _ = c.Close() }(); handle(c) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
	}
}

func upper(c net.Conn) {
	b, _ := io.ReadAll(c) // to the end of that direction
	_, _ = c.Write(bytes.ToUpper(b))
}

func TestPortLeadsToTheServiceWithHalfClose(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:0", "unix:" + filepath.Join(t.TempDir(), "s")} {
		c := dialed(t, serve(t, listen, false, service(t, upper), io.Discard))
		_, _ = io.WriteString(c, "hello")
		_ = c.(interface{ CloseWrite() error }).CloseWrite()
		if got, err := io.ReadAll(c); string(got) != "HELLO" || err != nil {
			t.Errorf("%s: %q, %v", listen, got, err)
		}
	}
}

func TestConnectionThatCannotBeMadeIsResetAndThePortStays(t *testing.T) {
	var log lines
	var tries atomic.Int32
	to := service(t, upper)
	a := serve(t, "127.0.0.1:0", false, func(ctx context.Context) (net.Conn, error) {
		if tries.Add(1) == 1 {
			return nil, errors.New("device d: not connected")
		}
		return to(ctx)
	}, &log)
	first, err := net.Dial(a.Network(), a.String())
	if err == nil {
		_, err = first.Read(make([]byte, 1))
		_ = first.Close()
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a connection without a service: %v", err)
	}
	c := dialed(t, a)
	_ = c.(*net.TCPConn).CloseWrite()
	if _, err := io.ReadAll(c); err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "not connected") {
		t.Errorf("log %q", log.String())
	}
}

func TestBrokenServiceIsAResetForTheLocalEnd(t *testing.T) {
	c := dialed(t, serve(t, "127.0.0.1:0", false, service(t, func(c net.Conn) {
		_, _ = c.Write([]byte("half"))
		_, _ = c.Read(make([]byte, 1))
		_ = c.(*net.TCPConn).SetLinger(0)
	}), io.Discard))
	if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	_, _ = c.Write([]byte("x"))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %v", err)
	}
}

func TestAddressInUseSaysSo(t *testing.T) {
	a := serve(t, "unix:"+filepath.Join(t.TempDir(), "s"), false, service(t, upper), io.Discard)
	for _, listen := range []string{"unix:" + a.String(), "nowhere"} {
		if _, err := Listen(t.Context(), listen, nil, nil); err == nil {
			t.Errorf("%s: no error", listen)
		}
	}
}

// connectProxy answers CONNECT requests: host forbidden.test is refused, others
// are told what was asked for.
func connectProxy(c net.Conn) {
	req, err := http.ReadRequest(bufio.NewReader(c))
	switch {
	case err != nil:
	case strings.HasPrefix(req.Host, "forbidden.test"):
		_, _ = io.WriteString(c, "HTTP/1.1 403 Forbidden\r\nContent-Length: 14\r\n\r\nno rule at all")
	default:
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nyou asked for "+req.Host)
	}
}

func TestSOCKSPassesNamesOnToTheProxy(t *testing.T) {
	var log lines
	a := serve(t, "127.0.0.1:0", true, service(t, connectProxy), &log)
	d, err := proxy.SOCKS5("tcp", a.String(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for to, want := range map[string]string{"db.corp.test:5432": "db.corp.test:5432", "10.0.0.1:80": "10.0.0.1:80", "[2001:db8::1]:22": "[2001:db8::1]:22"} {
		c, err := d.Dial("tcp", to)
		if err != nil {
			t.Errorf("%s: %v", to, err)
			continue
		}
		if got, _ := io.ReadAll(c); string(got) != "you asked for "+want {
			t.Errorf("%s: %q", to, got)
		}
		_ = c.Close()
	}
	if _, err := d.Dial("tcp", "forbidden.test:1"); err == nil || !strings.Contains(err.Error(), "not allowed by ruleset") {
		t.Errorf("refused destination: %v", err)
	}
}

func TestSOCKSRefusesWhatItDoesNotDo(t *testing.T) {
	a := serve(t, "127.0.0.1:0", true, func(context.Context) (net.Conn, error) { return nil, errors.New("not connected") }, io.Discard)
	for sent, want := range map[string]string{
		"\x05\x01\x02": "\x05\xff",
		"\x05\x01\x00\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x50": "\x05\x00\x05\x07\x00\x01\x00\x00\x00\x00\x00\x00", // BIND
		"\x05\x01\x00\x05\x01\x00\x09":                         "\x05\x00\x05\x08\x00\x01\x00\x00\x00\x00\x00\x00",
		"\x05\x01\x00\x05\x01\x00\x03\x03a\rb\x00\x50":         "\x05\x00\x05\x08\x00\x01\x00\x00\x00\x00\x00\x00",
		"\x05\x01\x00\x05\x01\x00\x03\x01a\x00\x50":            "\x05\x00\x05\x01\x00\x01\x00\x00\x00\x00\x00\x00", // no device
		"\x04\x01\x00\x50\x7f\x00\x00\x01\x00":                 "",
		"\x05\x02\x00\x02\x05\x01\x00\x04\x00\x00":             "\x05\x00\x05\x01\x00\x01\x00\x00\x00\x00\x00\x00", // cut off
	} {
		c := dialed(t, a)
		_, _ = io.WriteString(c, sent)
		_ = c.(*net.TCPConn).CloseWrite()
		if got, _ := io.ReadAll(c); string(got) != want {
			t.Errorf("%x: %x, want %x", sent, got, want)
		}
	}
}
