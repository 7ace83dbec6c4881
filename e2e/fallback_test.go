//go:build e2e

package e2e

import (
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/pki"
	"github.com/atls-ws/atls-ws/server"
)

// TestFallbackTakesAtMostThreeRoundTrips from a refused upgrade to Ready, on the
// connection that is there. The inner handshake and Hello need two of them.
func TestFallbackTakesAtMostThreeRoundTrips(t *testing.T) {
	s := newSite(t)
	p, err := pki.ReadPair(s.file("pki"), "server")
	s.write(err)
	cert, err := p.TLS()
	s.write(err)
	var mu sync.Mutex
	var upgrades, posts []string // the client's addresses
	ready := -1                  // how many posts there were at Ready
	srv, err := server.New(&server.Config{
		TLS: &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: s.ca.Pool()},
		Identify: func(cs tls.ConnectionState) (string, error) { // asked right before Ready
			mu.Lock()
			defer mu.Unlock()
			ready = len(posts)
			return server.Identify(cs)
		},
	})
	s.write(err)
	box := httptest.NewUnstartedServer(noUpgrade(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		if r.Method == http.MethodPost {
			posts = append(posts, r.RemoteAddr)
		} else {
			upgrades = append(upgrades, r.RemoteAddr)
		}
		mu.Unlock()
		srv.ServeHTTP(w, r)
	})))
	box.Config.ErrorLog = log.New(io.Discard, "", 0)
	box.StartTLS()
	t.Cleanup(func() { _ = srv.Close(); box.Close() })

	sess, err := client.Dial(bounded(t), &client.Config{URL: box.URL, TLS: s.innerTLS()})
	s.write(err)
	defer func() { _ = sess.Close() }()
	mu.Lock()
	defer mu.Unlock()
	if ready < 1 || ready > 3 {
		t.Errorf("ready after %d requests, want at most 3", ready)
	}
	if len(upgrades) != 1 || len(posts) == 0 || posts[0] != upgrades[0] {
		t.Errorf("upgrade from %v, first request from %v: want one connection", upgrades, posts)
	}
}
