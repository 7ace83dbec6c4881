package daemon

import (
	"crypto/rand"
	"crypto/tls"
	"os"
	"path/filepath"
	"testing"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/pki"
)

// A daemon that is started anew has nothing of the one before but its files, as
// the next node of a cluster has.
func TestDeviceResumesAtTheNextNodeWithTheSameTicketFile(t *testing.T) {
	for _, file := range []string{"tickets", ""} {
		t.Run("file "+file, func(t *testing.T) {
			s := startWith(t, func(cfg *config.Server, dir string) {
				if file != "" {
					cfg.Inner.Tickets = filepath.Join(dir, file)
					if err := os.WriteFile(cfg.Inner.Tickets, []byte(rand.Text()+rand.Text()), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			})
			pair := must[tls.Certificate](t)(must[*pki.Pair](t)(s.ca.Device("d-1", 0)).TLS())
			conf := &tls.Config{RootCAs: s.ca.Pool(), ServerName: pki.ServerName, Certificates: []tls.Certificate{pair}, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
			resumed := func() bool {
				sess := must[*client.Session](t)(client.Dial(t.Context(), &client.Config{URL: s.url, TLS: conf}))
				defer func() { _ = sess.Close() }()
				return sess.ConnectionState().DidResume
			}
			if resumed() {
				t.Error("the first session is a resumed one")
			}
			if !resumed() {
				t.Error("the same node does not resume")
			}
			if err := s.stop(); err != nil {
				t.Fatal(err)
			}
			s.again()
			if got, want := resumed(), file != ""; got != want {
				t.Errorf("at the next node: resumed %v, want %v", got, want)
			}
		})
	}
}
