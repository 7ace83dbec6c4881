package daemon

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/pki"
	"github.com/atls-ws/atls-ws/wsconn"
)

// get asks for / as a peer that has a TLS stack and nothing else.
func (s *site) get(id string) (status int, body string) {
	s.t.Helper()
	conn := must[*wsconn.Conn](s.t)(wsconn.Dial(s.t.Context(), s.url+config.DefaultPath, nil))
	pair := must[*pki.Pair](s.t)(s.ca.Device(id, 0))
	inner := tls.Client(conn, &tls.Config{
		RootCAs: s.ca.Pool(), ServerName: pki.ServerName, NextProtos: []string{"atls-http/1"},
		Certificates: []tls.Certificate{must[tls.Certificate](s.t)(pair.TLS())},
	})
	defer func() { _ = inner.Close() }()
	if _, err := io.WriteString(inner, "GET / HTTP/1.1\r\nHost: cloud\r\n\r\n"); err != nil {
		s.t.Fatal(err)
	}
	resp := must[*http.Response](s.t)(http.ReadResponse(bufio.NewReader(inner), nil))
	return resp.StatusCode, string(must[[]byte](s.t)(io.ReadAll(resp.Body)))
}

func TestHTTPPeerReachesTheServiceHTTP(t *testing.T) {
	s := start(t, nil)
	status, body := s.get("meter-1")
	var told struct{ Device, Session string }
	if err := json.Unmarshal([]byte(body), &told); status != http.StatusOK || err != nil || told.Device != "meter-1" || told.Session != "" {
		t.Errorf("without the service: %d %q, %v", status, body, err)
	}
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "app") }))
	defer app.Close()
	s = start(t, map[string]string{"http": app.URL})
	if status, body := s.get("meter-1"); status != http.StatusOK || !strings.Contains(body, "app") {
		t.Errorf("with the service: %d %q", status, body)
	}
}
