package server_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/atls-ws/atls-ws/internal/pki"
	"github.com/atls-ws/atls-ws/postconn"
	"github.com/atls-ws/atls-ws/server"
	"github.com/atls-ws/atls-ws/wsconn"
)

// carriers open a bare carrier to a site.
var carriers = map[string]func(t *testing.T, s *site) net.Conn{
	"websocket": func(t *testing.T, s *site) net.Conn {
		conn, err := wsconn.Dial(t.Context(), s.web.URL, &wsconn.DialOptions{TLS: &tls.Config{RootCAs: s.roots()}})
		return opened(t, conn, err)
	},
	"post": func(t *testing.T, s *site) net.Conn {
		conn, err := postconn.Dial(t.Context(), s.web.URL, &postconn.DialOptions{TLS: &tls.Config{RootCAs: s.roots()}})
		return opened(t, conn, err)
	},
}

func opened(t *testing.T, conn net.Conn, err error) net.Conn {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// httpPeer does the inner handshake of a peer that has a TLS stack and nothing else.
func (s *site) httpPeer(t *testing.T, conn net.Conn, device string) *tls.Conn {
	pair, err := s.ca.Device(device, 0)
	return tls.Client(conn, &tls.Config{
		RootCAs: s.ca.Pool(), ServerName: pki.ServerName, NextProtos: []string{"atls-http/1"},
		Certificates: []tls.Certificate{cert(t, pair, err)},
	})
}

func TestHTTPPeerReachesTheHostedHandlerOverEitherCarrier(t *testing.T) {
	s := newSite(t, &server.Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		device, _ := server.Device(r.Context())
		_, session := server.FromContext(r.Context())
		body, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%s %s %v %d", device, r.TLS.NegotiatedProtocol, session, len(body))
	})})
	for name, open := range carriers {
		t.Run(name, func(t *testing.T) {
			inner := s.httpPeer(t, open(t, s), "meter-1")
			br := bufio.NewReader(inner)
			for i := range 3 { // one connection, many requests
				r, _ := http.NewRequest(http.MethodPost, "http://cloud/", strings.NewReader(strings.Repeat("x", i*50_000)))
				if err := r.Write(inner); err != nil {
					t.Fatal(err)
				}
				resp, err := http.ReadResponse(br, r)
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(resp.Body)
				if want := fmt.Sprintf("meter-1 atls-http/1 false %d", i*50_000); string(body) != want {
					t.Errorf("%q, want %q", body, want)
				}
			}
			_ = inner.Close()
			if s.srv.Registry().Len() != 0 {
				t.Error("a peer without a session is in the registry")
			}
		})
	}
}

// Without a Handler, whoever listens on the service http serves these peers too.
func TestHTTPPeerReachesTheServiceOfTheMux(t *testing.T) {
	mux := new(server.Mux)
	s := newSite(t, &server.Config{Mux: mux})
	l, err := mux.Listen(server.ServiceHTTP)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	inner := s.httpPeer(t, carriers["post"](t, s), "meter-1")
	if err := inner.Handshake(); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if d, ok := conn.(interface{ Device() string }); !ok || d.Device() != "meter-1" {
		t.Errorf("a %T, want a peer that is meter-1", conn)
	}
	if _, err := inner.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	_ = s.srv.Close() // ends what nobody closes
	if _, err := conn.Read(got); err == nil {
		t.Error("the connection outlives the server")
	}
}

func TestHTTPPeerNeedsAHandlerAndACertificate(t *testing.T) {
	s := newSite(t, &server.Config{})
	inner := s.httpPeer(t, carriers["websocket"](t, s), "meter-1")
	if err := inner.Handshake(); err == nil || !strings.Contains(err.Error(), "no application protocol") {
		t.Errorf("without a handler: %v", err)
	}
	s = newSite(t, &server.Config{Handler: http.NotFoundHandler()})
	inner = tls.Client(carriers["websocket"](t, s), &tls.Config{RootCAs: s.ca.Pool(), ServerName: pki.ServerName, NextProtos: []string{"atls-http/1"}})
	_ = inner.Handshake()
	if _, err := inner.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("without a certificate: %v", err)
	}
}
