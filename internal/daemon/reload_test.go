package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/pki"
)

// eventually waits for what another goroutine brings about within seconds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// innerLeaf is the certificate that the server shows a new session.
func (s *site) innerLeaf(id string) string {
	sess := s.connect(id, nil)
	defer func() { _ = sess.Close() }()
	return sess.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

func TestNewCertificateIsUsedWithoutEndingSessions(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	old := s.connect("d-1", nil)
	before := old.ConnectionState().PeerCertificates[0].SerialNumber.String()

	// Half a change is refused, and the old stays.
	pair := must[*pki.Pair](t)(s.ca.Server(nil, 0))
	key := must[[]byte](t)(os.ReadFile(s.cfg.Inner.Key))
	if err := os.WriteFile(s.cfg.Inner.Key, pair.KeyPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a refusal that says what and what next", func() bool {
		return strings.Contains(s.log.String(), "private key does not match") && strings.Contains(s.log.String(), "name the key that was made with this certificate")
	})
	if now := s.innerLeaf("d-2"); now != before {
		t.Errorf("the server shows %s after a reload that was refused, want %s", now, before)
	}
	if err := os.WriteFile(s.cfg.Inner.Key, key, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := pair.Write(filepath.Dir(s.cfg.Inner.Cert), pki.ServerFile, true); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new certificate", func() bool { return s.innerLeaf("d-2") != before })
	if err := old.Err(); err != nil {
		t.Errorf("the session that was up has ended: %v", err)
	}
}

func TestRevokedCertificateEndsItsSessionsWithinSeconds(t *testing.T) {
	t.Parallel()
	var dir string
	s := startWith(t, func(cfg *config.Server, d string) { dir = d; cfg.Inner.CRL = []string{pki.CRLPath(d)}; writeCRL(t, d) })
	revoked := must[*pki.Pair](t)(s.ca.Device("d-1", 0))
	cert := must[tls.Certificate](t)(revoked.TLS())
	dial := func() (*client.Session, error) {
		sess, err := client.Dial(t.Context(), &client.Config{URL: s.url, TLS: &tls.Config{RootCAs: s.ca.Pool(), ServerName: pki.ServerName,
			Certificates: []tls.Certificate{cert}, ClientSessionCache: tls.NewLRUClientSessionCache(1)}})
		if err == nil {
			t.Cleanup(func() { _ = sess.Close() })
		}
		return sess, err
	}
	sess := must[*client.Session](t)(dial())
	other := s.connect("d-2", nil)

	if err := os.WriteFile(pki.CRLPath(dir), []byte("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a refusal of a broken list", func() bool { return strings.Contains(s.log.String(), "is no CRL") })
	if sess.Err() != nil {
		t.Fatal("a broken list ended the session")
	}
	if err := errors.Join(os.Remove(pki.CRLPath(dir)), s.ca.Revoke(dir, cert.Leaf)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of the session", func() bool { return sess.Err() != nil })
	if !strings.Contains(sess.Err().Error(), "is revoked since") {
		t.Errorf("the device was told %q", sess.Err())
	}
	if _, err := dial(); err == nil {
		t.Error("a revoked device connected")
	}
	if err := other.Err(); err != nil {
		t.Errorf("another device's session ended: %v", err)
	}
}

func writeCRL(t *testing.T, dir string) {
	t.Helper()
	if err := must[*pki.CA](t)(pki.LoadCA(dir)).Revoke(dir); err != nil {
		t.Fatal(err)
	}
}

func TestRemovedAuthorityEndsItsSessions(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(cfg *config.Server, dir string){
		"no enrollment": func(*config.Server, string) {},
		"enrollment": func(cfg *config.Server, dir string) {
			cfg.Enroll = config.Enroll{Cert: pki.CertPath(dir, pki.CAFile), Key: pki.KeyPath(dir, pki.CAFile), Tokens: filepath.Join(dir, "tokens")}
			cfg.Inner.ClientCA, cfg.Inner.FactoryCA = filepath.Join(dir, "devices.pem"), filepath.Join(dir, "factory.pem")
			both := must[[]byte](t)(os.ReadFile(pki.CertPath(dir, pki.CAFile)))
			factory := must[*pki.CA](t)(pki.NewCA("factory"))
			if err := errors.Join(os.WriteFile(cfg.Inner.ClientCA, both, 0o600), os.WriteFile(cfg.Inner.FactoryCA, factory.CertPEM(), 0o600)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := startWith(t, prepare)
			sess := s.connect("d-1", nil)
			other := must[*pki.CA](t)(pki.NewCA("other"))
			if err := os.WriteFile(s.cfg.Inner.ClientCA, other.CertPEM(), 0o600); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the end of the session", func() bool { return sess.Err() != nil })
			if again, err := s.dial("d-2"); err == nil {
				_ = again.Close()
				t.Error("a device of the removed authority has connected")
			}
		})
	}
}

func TestServicesChangeWithoutEndingSessions(t *testing.T) {
	ln := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	defer func() { _ = ln.Close() }()
	cfg := config.DefaultServer()
	reload := make(chan os.Signal, 1)
	s := startOptions(t, func(c *config.Server, _ string) { cfg = c }, func(o *Options) {
		o.Reload = reload
		o.Load = func() (*config.Server, error) {
			read := *cfg
			read.Services = map[string]string{"echo": "tcp://" + ln.Addr().String()}
			read.Listen = "127.0.0.1:1"
			return &read, read.Validate()
		}
	})
	sess := s.connect("d-1", nil)
	if _, err := sess.Dial(t.Context(), "echo"); err == nil {
		t.Fatal("the service is there before it is configured")
	}
	reload <- os.Interrupt
	eventually(t, "the service", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		c, err := sess.Dial(ctx, "echo")
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	if !strings.Contains(s.log.String(), "changes that wait for a restart\" fields=listen") {
		t.Errorf("the log does not name what waits for a restart:\n%s", s.log.String())
	}
}
