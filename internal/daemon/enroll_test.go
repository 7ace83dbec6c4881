package daemon

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/est"
	"github.com/atls-ws/atls-ws/internal/pki"
)

// enroll is a device of the site that enrolls by a token.
func (s *site) enroll(device, token string) (*client.Enrollment, error) {
	dir := s.t.TempDir()
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	return client.Enroll(ctx, &client.Config{URL: s.url, TLS: &tls.Config{RootCAs: s.ca.Pool(), ServerName: pki.ServerName}},
		&client.EnrollOptions{CertFile: filepath.Join(dir, "c.pem"), KeyFile: filepath.Join(dir, "k.pem"), Device: device, Token: token})
}

func writeTokens(t *testing.T, file string, tokens ...config.EnrollToken) {
	t.Helper()
	var b strings.Builder
	b.WriteString("# tokens\n")
	for _, k := range tokens {
		b.WriteString(k.String() + "\n")
	}
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

func token(device, text string, valid time.Duration) config.EnrollToken {
	return config.EnrollToken{Device: device, Sum: sha256.Sum256([]byte(text)), Expires: time.Now().Add(valid)}
}

func TestDevicesEnrollByTokensOfAFile(t *testing.T) {
	var file string
	s := startWith(t, func(cfg *config.Server, dir string) {
		file = filepath.Join(dir, "tokens")
		cfg.Enroll = config.Enroll{Cert: pki.CertPath(dir, pki.CAFile), Key: pki.KeyPath(dir, pki.CAFile), Lifetime: time.Hour, Tokens: file, Devices: []string{"pump-*", "meter"}}
	})
	writeTokens(t, file, token("pump-7", "seven", time.Hour), token("pump-8", "eight", -time.Minute), token("valve", "open", time.Hour))
	for _, c := range []struct {
		device, token string
		status        int
	}{
		{"pump-7", "guess", 401}, {"pump-9", "seven", 401}, {"pump-8", "eight", 401}, {"valve", "open", 403}, {"pump-7", "seven", 0}, {"pump-7", "seven", 401},
	} {
		e, err := s.enroll(c.device, c.token)
		var no *client.EnrollError
		switch {
		case c.status != 0 && (!errors.As(err, &no) || no.StatusCode != c.status):
			t.Errorf("%+v: %v", c, err)
		case c.status == 0 && err != nil:
			t.Errorf("%+v: %v", c, err)
		case c.status == 0 && time.Until(e.Certificate().Leaf.NotAfter) > time.Hour:
			t.Errorf("until %v", e.Certificate().Leaf.NotAfter)
		}
	}
	writeTokens(t, file, token("meter", "new", time.Hour)) // read anew
	if _, err := s.enroll("meter", "new"); err != nil {
		t.Error(err)
	}
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	if log := s.log.b.String(); strings.Contains(log, "seven") || strings.Contains(log, "guess") {
		t.Error("a token is in the log")
	}
}

func TestATokenIsUsedUpOnce(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "tokens")
	writeTokens(t, file, token("a", "x", time.Hour))
	var won sync.Map
	var wg sync.WaitGroup
	for i := range byte(20) { // two servers that share the folder
		k := &tokens{file: file, used: filepath.Join(dir, "used"), log: slog.New(slog.DiscardHandler)}
		wg.Go(func() {
			if k.use(t.Context(), "a", "x", [32]byte{i}) == nil {
				won.Store(i, true)
			}
		})
	}
	wg.Wait()
	n := 0
	won.Range(func(by, _ any) bool {
		n++
		k := &tokens{file: file, used: filepath.Join(dir, "used"), log: slog.New(slog.DiscardHandler)}
		if err := k.use(t.Context(), "a", "x", [32]byte{by.(byte)}); err != nil {
			t.Errorf("not for the same key again: %v", err)
		}
		return true
	})
	if n != 1 {
		t.Errorf("%d have used it", n)
	}
}

func TestAnESTServerSignsBehindTheReverseProxy(t *testing.T) {
	var ca *pki.CA
	signs := true
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, certs ...*x509.Certificate) {
		b, err := est.EncodeBody(certs)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", est.ContentType)
		_, _ = w.Write(b)
	}
	mux.HandleFunc("GET /label/cacerts", func(w http.ResponseWriter, _ *http.Request) { answer(w, ca.Certificate()) })
	mux.HandleFunc("POST /label/simpleenroll", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		csr, err := est.DecodeCSR(body)
		if err != nil || r.Header.Get("Content-Type") != est.CSRType || len(r.TLS.PeerCertificates) != 1 || !signs {
			http.Error(w, "the registrar is not known", http.StatusForbidden)
			return
		}
		c, err := ca.Sign(csr.Subject.CommonName, csr.PublicKey, time.Hour)
		if err != nil {
			t.Error(err)
		}
		answer(w, ca.Certificate(), c)
	})
	up := httptest.NewUnstartedServer(mux)
	up.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	up.StartTLS()
	t.Cleanup(up.Close)
	s := startWith(t, func(cfg *config.Server, dir string) {
		file := filepath.Join(dir, "up.pem")
		var b bytes.Buffer
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: up.Certificate().Raw})
		if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg.Enroll = config.Enroll{Upstream: up.URL + "/label", UpstreamCA: file, UpstreamCert: cfg.Inner.Cert, UpstreamKey: cfg.Inner.Key, Tokens: filepath.Join(dir, "tokens")}
		writeTokens(t, cfg.Enroll.Tokens, token("pump-7", "seven", time.Hour), token("pump-8", "eight", time.Hour))
	})
	ca = s.ca
	e, err := s.enroll("pump-7", "seven")
	if err != nil || e.Certificate().Leaf.Subject.CommonName != "pump-7" {
		t.Fatal(err)
	}
	if err := e.Renew(t.Context()); err != nil {
		t.Error(err)
	}
	signs = false
	var no *client.EnrollError
	if _, err := s.enroll("pump-8", "eight"); !errors.As(err, &no) || no.StatusCode != http.StatusServiceUnavailable || s.log.match(t, "registrar is not known") == "" {
		t.Errorf("%v", err)
	}
}

// An authority elsewhere could make a server or a node of who asks in their name.
func TestTheServicesOwnNamesAreNotEnrolled(t *testing.T) {
	var file string
	s := startWith(t, func(cfg *config.Server, dir string) {
		file = filepath.Join(dir, "tokens")
		cfg.Enroll = config.Enroll{Cert: pki.CertPath(dir, pki.CAFile), Key: pki.KeyPath(dir, pki.CAFile), Tokens: file}
	})
	names := []string{pki.ServerName, strings.ToUpper(pki.ServerName), pki.NodeServerName, pki.NodeURN + "b", "pump-7"}
	var tokens []config.EnrollToken
	for _, name := range names {
		tokens = append(tokens, token(name, "of "+name, time.Hour))
	}
	writeTokens(t, file, tokens...)
	for _, name := range names {
		_, err := s.enroll(name, "of "+name)
		if no := (*client.EnrollError)(nil); name == "pump-7" && err != nil || name != "pump-7" && (!errors.As(err, &no) || no.StatusCode != http.StatusForbidden) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
