package doctor

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/internal/leak"
	"github.com/atls-ws/atls-ws/internal/pki"
	"github.com/atls-ws/atls-ws/server"
)

func TestMain(m *testing.M) { leak.Main(m) }

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// bare101 answers an upgrade as a box does that knows no WebSocket, and ends.
func bare101(w http.ResponseWriter) {
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
	_ = c.Close()
}

func TestTheWayIsToldInPlainWords(t *testing.T) {
	ca, other := must[*pki.CA](t)(pki.NewCA("ca")), must[*pki.CA](t)(pki.NewCA("other"))
	pair := must[*pki.Pair](t)(ca.Server([]string{pki.ServerName}, 0))
	cert := must[tls.Certificate](t)(pair.TLS())
	srv := must[*server.Server](t)(server.New(&server.Config{TLS: &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: ca.Pool()}}))
	defer func() { _ = srv.Close() }()
	device := must[tls.Certificate](t)(must[*pki.Pair](t)(ca.Device("meter-1", 0)).TLS())
	rogue := must[tls.Certificate](t)(must[*pki.Pair](t)(other.Device("meter-1", 0)).TLS())

	inner := func(roots *pki.CA, certs ...tls.Certificate) *tls.Config {
		c := &tls.Config{ServerName: pki.ServerName, Certificates: certs}
		if roots != nil {
			c.RootCAs = roots.Pool()
		}
		return c
	}
	upgrade := func(r *http.Request) bool { return r.Header.Get("Upgrade") != "" }
	for _, tt := range []struct {
		name    string
		box     func(w http.ResponseWriter, r *http.Request) bool // true: it has answered
		inner   *tls.Config
		carrier string
		words   []string
	}{
		{"nothing in the way", nil, nil, "websocket", []string{"server's own", "WebSocket will carry it, POST could"}},
		{"no certificate", nil, inner(ca), "websocket", []string{"no device certificate was given"}},
		{"nothing given", nil, inner(nil), "websocket", []string{"no device certificate was given"}},
		{"upgrade stripped", func(_ http.ResponseWriter, r *http.Request) bool {
			r.Header.Del("Upgrade")
			return false
		}, nil, "post", []string{"removes the WebSocket upgrade", "keep the headers", "possible over POST"}},
		{"upgrade forbidden", func(w http.ResponseWriter, r *http.Request) bool {
			if upgrade(r) {
				http.Error(w, "no", http.StatusForbidden)
			}
			return upgrade(r)
		}, nil, "post", []string{"answered 403 by something between", "possible over POST"}},
		{"upgrade cut", func(w http.ResponseWriter, r *http.Request) bool {
			if upgrade(r) {
				bare101(w)
			}
			return upgrade(r)
		}, nil, "post", []string{"possible over POST"}},
		{"POST forbidden", func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPost {
				http.Error(w, "no", http.StatusForbidden)
				return true
			}
			return false
		}, nil, "websocket", []string{"POST requests are answered 403", "application/atls", "possible over WebSocket"}},
		{"login page", func(w http.ResponseWriter, _ *http.Request) bool {
			_, _ = io.WriteString(w, "<html>please log in</html>")
			return true
		}, nil, "", []string{"login portal", "No session is possible"}},
		{"wrong path", func(w http.ResponseWriter, r *http.Request) bool { http.NotFound(w, r); return true }, nil, "", []string{"not an atls-ws server"}},
		{"another server inside", nil, inner(other, device), "", []string{"not the service that this device trusts", `"CN=ca`}},
		{"another device", nil, inner(ca, rogue), "", []string{"does not accept this device's certificate"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			web := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if tt.box == nil || !tt.box(w, r) {
					srv.ServeHTTP(w, r)
				}
			}))
			defer web.Close()
			if tt.inner == nil {
				tt.inner = inner(ca, device)
			}
			steps := 0
			r := Run(t.Context(), Options{
				URL: must[*url.URL](t)(url.Parse(web.URL)), Inner: tt.inner, Hold: time.Second,
				Proxy:  func(*http.Request) (*url.URL, error) { return nil, nil },
				OnStep: func(Step) { steps++ },
			})
			said := strings.Join(append(r.Found, r.Tell...), "\n")
			if r.Carrier != tt.carrier || r.OK != (tt.carrier != "") || steps != len(r.Steps) {
				t.Errorf("carrier %q, %v, steps %+v", r.Carrier, r.OK, r.Steps)
			}
			for _, w := range tt.words {
				if !strings.Contains(said, w) {
					t.Errorf("%q is not in:\n%s\n%+v", w, said, r.Steps)
				}
			}
			if srv.Registry().Len() != 0 {
				t.Error("the doctor took the device's place")
			}
		})
	}
}

func TestWhatCannotBeReached(t *testing.T) {
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusProxyAuthRequired) }))
	defer proxy.Close()
	closed := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	_ = closed.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	for want, o := range map[string]Options{
		"the proxy wants a login": {URL: &url.URL{Scheme: "https", Host: "cloud.example"}, Proxy: http.ProxyURL(must[*url.URL](t)(url.Parse(proxy.URL)))},
		"No connection":           {URL: &url.URL{Scheme: "https", Host: closed.Addr().String()}},
		"is not known here":       {URL: &url.URL{Scheme: "https", Host: "no-such-host.invalid"}},
		"does not speak TLS":      {URL: &url.URL{Scheme: "https", Host: plain.Listener.Addr().String()}},
		"not an atls-ws server":   {URL: &url.URL{Scheme: "http", Host: plain.Listener.Addr().String()}},
	} {
		o.Inner = &tls.Config{ServerName: pki.ServerName}
		r := Run(t.Context(), o)
		if said := strings.Join(r.Found, "\n"); r.OK || !strings.Contains(strings.ToLower(said), strings.ToLower(want)) {
			t.Errorf("want %q in:\n%s\n%+v", want, said, r.Steps)
		}
	}
}
