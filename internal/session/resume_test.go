package session

import (
	"context"
	"crypto/tls"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
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
			clientTLS := testCerts().clientTLS()
			sc := &Config{TLS: tt.server, Admit: func(cs tls.ConnectionState, _ *Hello) (string, error) {
				if len(cs.PeerCertificates) == 0 {
					t.Error("no certificate to admit")
				}
				admitted.Add(1)
				return "device-1", nil
			}}
			acceptor, err := NewAcceptor(sc)
			if err != nil {
				t.Fatal(err)
			}
			connect := func() (c, s *Session, cerr, serr error) {
				a, b := tcpPipe(t)
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				var wg sync.WaitGroup
				wg.Go(func() {
					var in *Inner
					if in, serr = acceptor.Accept(ctx, b, nil); serr == nil {
						s, serr = in.Session(ctx)
					}
				})
				c, cerr = Client(ctx, a, &Config{TLS: clientTLS})
				wg.Wait()
				return c, s, cerr, serr
			}
			clientTLS.ClientSessionCache = tls.NewLRUClientSessionCache(1)
			for i := range int32(3) {
				client, server, cerr, serr := connect()
				if cerr != nil || serr != nil {
					t.Fatal(cerr, serr)
				}
				if got := server.ConnectionState().DidResume; got != (i > 0) {
					t.Errorf("session %d: resumed %v", i, got)
				}
				if decided.Load() != i+1 || admitted.Load() != i+1 {
					t.Errorf("session %d: VerifyConnection %d times, Admit %d times", i, decided.Load(), admitted.Load())
				}
				if conn, err := client.Dial(t.Context(), "none"); err == nil || conn != nil { // reads the ticket
					t.Error("there is no such service")
				}
				_ = client.Close()
				_ = server.Close()
			}
			deny.Store(true)
			_, _, cerr, serr := connect()
			if cerr == nil || serr == nil || !strings.Contains(serr.Error(), "revoked") {
				t.Errorf("client: %v; server: %v", cerr, serr)
			}
		})
	}
}
