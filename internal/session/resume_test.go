package session

import (
	"crypto/tls"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
)

// A device that comes back resumes, and whoever may no longer come is refused
// all the same: VerifyConnection and Admit see each session.
func TestResumedSessionsAreDecidedOn(t *testing.T) {
	var deny atomic.Bool
	var decided, configured atomic.Int32
	serverTLS := testCerts().serverTLS()
	serverTLS.VerifyConnection = func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) == 0 || len(cs.VerifiedChains) == 0 {
			return errors.New("no certificate")
		}
		decided.Add(1)
		if deny.Load() {
			return errors.New("revoked")
		}
		return nil
	}
	for _, tt := range []struct {
		name   string
		server *tls.Config
	}{
		{"one configuration", serverTLS},
		{"one that is reloaded", &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			configured.Add(1)
			return serverTLS, nil
		}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			deny.Store(false)
			decided.Store(0)
			var admitted atomic.Int32
			sc := &Config{TLS: tt.server, Admit: func(cs tls.ConnectionState, _ *Hello) (string, error) {
				if len(cs.PeerCertificates) == 0 {
					t.Error("no certificate to admit")
				}
				admitted.Add(1)
				return "device-1", nil
			}}
			clientTLS := testCerts().clientTLS()
			clientTLS.ClientSessionCache = tls.NewLRUClientSessionCache(1)
			for i := range int32(3) {
				a, b := tcpPipe(t)
				e := connect(t, a, b, &Config{TLS: clientTLS}, sc)
				if got := e.server.ConnectionState().DidResume; got != (i > 0) {
					t.Errorf("session %d: resumed %v", i, got)
				}
				if decided.Load() != i+1 || admitted.Load() != i+1 {
					t.Errorf("session %d: VerifyConnection %d times, Admit %d times", i, decided.Load(), admitted.Load())
				}
				if conn, err := e.client.Dial(t.Context(), "none"); err == nil || conn != nil { // reads the ticket
					t.Error("there is no such service")
				}
				_ = e.client.Close()
			}
			deny.Store(true)
			a, b := tcpPipe(t)
			_, _, cerr, serr := try(t, a, b, &Config{TLS: clientTLS}, sc)
			if cerr == nil || serr == nil || !strings.Contains(serr.Error(), "revoked") {
				t.Errorf("client: %v; server: %v", cerr, serr)
			}
		})
	}
}
