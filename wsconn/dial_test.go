package wsconn

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestContextOfDialIsNotTheConnections(t *testing.T) {
	srv, conns, _ := listen(t, true, nil)
	ctx, cancel := context.WithCancel(t.Context())
	c, err := Dial(ctx, srv.URL, dialOptions(srv))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	cancel()
	s := <-conns
	defer func() { _ = s.Close() }()
	_, _ = c.Write([]byte("x"))
	if _, err := s.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

func TestSubprotocols(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ offer, selected string }{
		{"", ""},
		{"Sec-WebSocket-Protocol: atls.v1\r\n", "atls.v1"},
		{"Sec-WebSocket-Protocol: mqtt, atls.v1\r\n", "atls.v1"},
		{"Sec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Protocol: atls.v1\r\n", "atls.v1"},
		{"Sec-WebSocket-Protocol: ATLS.V1\r\n", "refused"},
		{"Sec-WebSocket-Protocol: atls.v2\r\n", "refused"},
	} {
		_, br, s := upgraded(t, "", tt.offer)
		if (s == nil) != (tt.selected == "refused") {
			t.Errorf("%q: accepted %v", tt.offer, s != nil)
		}
		if s == nil {
			if op, p := readFrame(t, br); op != 8 || binary.BigEndian.Uint16(p) != 1008 {
				t.Errorf("%q: frame %d %q", tt.offer, op, p)
			}
		}
	}
}

func TestOuterALPNIsHTTP1(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, err := Accept(w, r, nil); err == nil {
			_ = c.Close()
		}
	}))
	offered := make(chan []string, 1)
	srv.TLS = &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		offered <- h.SupportedProtos
		return nil, nil
	}}
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	c, err := Dial(t.Context(), srv.URL, dialOptions(srv))
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	if got := <-offered; len(got) != 1 || got[0] != "http/1.1" {
		t.Errorf("offered %q", got)
	}
}

func TestRefusalsOfTheWay(t *testing.T) {
	hijacked := func(answer string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			c, _, _ := http.NewResponseController(w).Hijack()
			_, _ = io.WriteString(c, answer)
			_ = c.Close()
		}
	}
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		status int
		text   string
	}{
		{"upgrade stripped", func(w http.ResponseWriter, r *http.Request) { r.Header.Del("Upgrade"); _, _ = Accept(w, r, nil) }, 426, "removed the upgrade"},
		{"bad gateway", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502) }, 502, "does not reach"},
		{"redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://portal.example/", http.StatusTemporaryRedirect)
		}, 307, "http://portal.example/"},
		{"redirect to nonsense", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://[bad")
			w.WriteHeader(302)
		}, 302, "[bad"},
		{"portal", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat("<p>", 10_000)) }, 200, "a portal"},
		{"101 and no more", hijacked("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: atls.v1\r\n\r\n"), 101, "Sec-WebSocket-Accept"},
		{"101 to something else", hijacked("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nSec-WebSocket-Protocol: atls.v1\r\n\r\n"), 101, "Upgrade header"},
		{"other subprotocol", hijacked("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"), 101, `"mqtt"`},
		{"no HTTP", hijacked("220 mail.example ESMTP\r\n"), 0, "malformed HTTP"},
		{"nothing", hijacked(""), 0, "EOF"},
		{"endless header", hijacked("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20)), 0, "headers exceeded"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := httptest.NewServer(tt.answer)
			defer srv.Close()
			_, err := Dial(t.Context(), "ws"+strings.TrimPrefix(srv.URL, "http"), dialOptions(srv))
			var up *UpgradeError
			if !errors.As(err, &up) {
				t.Fatal(err)
			}
			if up.StatusCode != tt.status || !strings.Contains(err.Error(), tt.text) || len(up.Body) > 1<<10 {
				t.Errorf("%d: %v", up.StatusCode, err)
			}
		})
	}
}

func TestProxyRefusalIsAnUpgradeError(t *testing.T) {
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "9")
		w.WriteHeader(http.StatusProxyAuthRequired)
	}))
	defer proxy.Close()
	u, _ := url.Parse(proxy.URL)
	u.User = url.UserPassword("me", "secret")
	_, err := Dial(t.Context(), "wss://cloud.example/", &DialOptions{Proxy: http.ProxyURL(u)})
	var up *UpgradeError
	if !errors.As(err, &up) || up.StatusCode != 407 || up.RetryAfter != 9*time.Second {
		t.Fatal(err)
	}
	if s := err.Error(); !strings.Contains(s, u.Host) || strings.Contains(s, "secret") {
		t.Error(s)
	}
}

// TestSilentServers: TCP answers, then nobody or not enough.
func TestSilentServers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, scheme, answer string }{
		{"no answer", "ws", ""},
		{"no TLS", "wss", ""},
		{"half a header", "ws", "HTTP/1.1 101 Swi"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = l.Close() }()
			gone := make(chan struct{})
			go func() {
				defer close(gone)
				if c, err := l.Accept(); err == nil {
					_, _ = c.Read(make([]byte, 4096)) // an answer before the request is another error
					_, _ = io.WriteString(c, tt.answer)
					_, _ = io.Copy(io.Discard, c)
					_ = c.Close()
				}
			}()
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			_, err = Dial(ctx, tt.scheme+"://"+l.Addr().String(), nil)
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			<-gone // the connection is closed too
		})
	}
}
