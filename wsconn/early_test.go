package wsconn

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/internal/outer"
)

func noProxy(*http.Request) (*url.URL, error) { return nil, nil }

// slowConn takes its time, in which others can come to wait for it.
type slowConn struct{ net.Conn }

func (c slowConn) Write(p []byte) (int, error) {
	time.Sleep(2 * time.Millisecond)
	return c.Conn.Write(p)
}

// net/http sends a head of more than 4 KiB in parts: the message must not get
// between them.
func TestEarlyMessageFollowsTheWholeRequest(t *testing.T) {
	for _, tls := range []bool{false, true} {
		for _, lines := range []int{0, 3, 4, 30} {
			srv, conns, _ := listen(t, tls, nil)
			o := dialOptions(srv)
			o.Early = []byte("early")
			o.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				c, err := new(net.Dialer).DialContext(ctx, network, addr)
				return slowConn{c}, err
			}
			o.Header = http.Header{"X-Long": slices.Repeat([]string{strings.Repeat("x", 1000)}, lines)}
			c, err := Dial(t.Context(), srv.URL, o)
			if err != nil {
				t.Fatalf("tls %v, %d KB of headers: %v", tls, lines, err)
			}
			_, _ = c.Write([]byte(" late"))
			s := <-conns
			got := make([]byte, len("early late"))
			if _, err := io.ReadFull(s, got); err != nil || string(got) != "early late" {
				t.Errorf("tls %v, %d KB of headers: %q, %v", tls, lines, got, err)
			}
			_ = c.Close()
			_ = s.Close()
		}
	}
}

// What is behind a refused upgrade would be the beginning of the next request.
func TestConnectionOfAnEarlyMessageServesNoOtherRequest(t *testing.T) {
	var answered []string // to whom, in the test's order
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answered = append(answered, r.RemoteAddr)
		if r.Method == http.MethodGet {
			r.Header.Del("Upgrade") // a box does that
			_, _ = Accept(w, r, nil)
		}
	}))
	defer srv.Close()
	hop := outer.New(outer.Options{Proxy: noProxy})
	defer hop.Close()
	post := func() {
		t.Helper()
		resp, err := (&http.Client{Transport: hop.Transport}).Post(srv.URL, "text/plain", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("answered %d", resp.StatusCode)
		}
	}
	post()
	_, err := Dial(t.Context(), srv.URL, &DialOptions{Transport: hop.Transport, Early: []byte("early")})
	var up *UpgradeError
	if !errors.As(err, &up) || up.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("the upgrade: %v", err)
	}
	post()
	if len(answered) != 3 || answered[1] == answered[0] || answered[2] == answered[1] {
		t.Errorf("a connection of its own for the second of %v", answered)
	}
}

// A refused upgrade ends the connection also at the server: a box may take it for
// a WebSocket, in which anybody can write a request.
func TestWhatFollowsARefusedUpgradeIsNotAnswered(t *testing.T) {
	for name, wrong := range map[string]string{
		"origin":  "Origin: https://elsewhere.example\r\n",
		"version": "Sec-WebSocket-Version: 12\r\n",
		"body":    "Content-Length: 1\r\n",
	} {
		asked := 0
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked++
			_, _ = Accept(w, r, nil)
		}))
		c, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		version := "Sec-WebSocket-Version: 13\r\n"
		if name == "version" {
			version = ""
		}
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"+
			version+wrong+"\r\nGET /second HTTP/1.1\r\nHost: x\r\n\r\n")
		answers, err := io.ReadAll(c)
		if n := strings.Count(string(answers), "HTTP/1.1 "); err != nil || n != 1 || asked != 1 {
			t.Errorf("%s: %d requests are answered, %v:\n%s", name, n, err, answers)
		}
		_ = c.Close()
		srv.Close()
	}
}

// Whoever reads the head alone blocks the message; it ends with the dialing.
func TestEarlyMessageOfAnAbandonedDialEnds(t *testing.T) {
	near, far := net.Pipe()
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		r := bufio.NewReaderSize(far, 16)
		for {
			if line, err := r.ReadString('\n'); err != nil || line == "\r\n" {
				cancel(fmt.Errorf("the test: %w", err))
				return
			}
		}
	}()
	_, err := Dial(ctx, "http://x", &DialOptions{
		Proxy: noProxy, Early: make([]byte, MaxMessage),
		DialContext: func(context.Context, string, string) (net.Conn, error) { return near, nil },
	})
	if err == nil {
		t.Error("a WebSocket without an answer")
	}
	if _, err := near.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("the connection is open: %v", err)
	}
	_ = far.Close()
	if _, err := Dial(t.Context(), "http://x", &DialOptions{Early: make([]byte, MaxMessage+1)}); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("too long: %v", err)
	}
}
