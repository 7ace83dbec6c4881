package server_test

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"strings"
	"testing"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/middlebox"
	"github.com/atls-ws/atls-ws/internal/pki"
	"github.com/atls-ws/atls-ws/server"
	"github.com/atls-ws/atls-ws/wsconn"
)

// The lines of docs/SECURITY.md that nothing else holds.

func TestInterceptionIsSeenEvenWhereTheOuterCertificateVerifies(t *testing.T) {
	s := newSite(t, &server.Config{})
	box, err := middlebox.Listen("127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = box.Close() })
	boxes := x509.NewCertPool()
	boxes.AppendCertsFromPEM(box.CAPEM())
	for _, carrier := range []client.Carrier{client.CarrierWebSocket, client.CarrierPOST} {
		direct := s.config(t, "direct-"+string(carrier))
		through := s.config(t, "through-"+string(carrier))
		through.Proxy = http.ProxyURL(box.URL())
		through.Outer = &client.OuterConfig{Roots: boxes} // the network's administrator has seen to it
		for c, intercepted := range map[*client.Config]bool{direct: false, through: true} {
			c.Carrier = carrier
			sess := s.dial(t, c)
			got, _ := s.srv.Registry().Get(sess.Device())
			if curve := sess.ConnectionState().CurveID; curve != tls.X25519MLKEM768 {
				t.Errorf("the inner key exchange is %v", curve)
			}
			if o := got.Hello().Outer; o == nil || !o.Compared || o.Intercepted != intercepted || o.Verified != intercepted {
				t.Errorf("%s: %+v", sess.Device(), o)
			}
		}
	}
}

func TestInnerTLSIsNothingOlderAndNothingElse(t *testing.T) {
	s := newSite(t, &server.Config{})
	pair, err := s.ca.Device("device-1", 0)
	device := cert(t, pair, err)
	for name, tc := range map[string]struct {
		change func(*tls.Config)
		want   string // empty: it is taken
	}{
		"as it should be": {func(*tls.Config) {}, ""},
		"TLS 1.2":         {func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }, "protocol version"},
		"h2":              {func(c *tls.Config) { c.NextProtos = []string{"h2", "http/1.1"} }, "no application protocol"},
		"no ALPN":         {func(c *tls.Config) { c.NextProtos = nil }, "EOF"},
		"no certificate":  {func(c *tls.Config) { c.Certificates = nil }, "certificate required"},
	} {
		conn, err := wsconn.Dial(t.Context(), s.web.URL, &wsconn.DialOptions{TLS: &tls.Config{RootCAs: s.roots()}})
		if err != nil {
			t.Fatal(err)
		}
		conf := &tls.Config{RootCAs: s.ca.Pool(), ServerName: pki.ServerName, NextProtos: []string{"atls-mux/1"}, Certificates: []tls.Certificate{device}}
		tc.change(conf)
		inner := tls.Client(conn, conf)
		if err = inner.Handshake(); err == nil {
			_, _ = inner.Write([]byte("\x00\x00\x00\x0d{\"version\":1}"))
			_, err = inner.Read(make([]byte, 1))
		}
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
		_ = conn.Close()
	}
}

func TestHalfOpenConnectionsAreBounded(t *testing.T) {
	s := newSite(t, &server.Config{Limits: server.Limits{HalfOpen: 1}})
	silent, err := wsconn.Dial(t.Context(), s.web.URL, &wsconn.DialOptions{TLS: &tls.Config{RootCAs: s.roots()}})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(method string) int {
		r, err := http.NewRequestWithContext(t.Context(), method, s.web.URL, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/atls")
		resp, err := s.web.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		if status := ask(method); status != http.StatusServiceUnavailable {
			t.Errorf("%s beside a silent peer: %d", method, status)
		}
	}
	if n := s.srv.Stats().FullHalfOpen; n != 2 {
		t.Errorf("%d are counted", n)
	}
	_ = silent.Close()
	eventually(t, func() bool { return s.srv.Stats().HalfOpen == 0 })
	s.dial(t, s.config(t, "device-1"))
}
