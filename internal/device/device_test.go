//go:build unix

package device

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/pki"
	"github.com/atls-ws/atls-ws/internal/session"
	"github.com/atls-ws/atls-ws/server"
)

// lines is a log that a test reads while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) has(words string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Contains(l.b.Bytes(), []byte(words))
}

func (l *lines) count(words string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Count(l.b.Bytes(), []byte(words))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// site is a server, and the configuration of a device that can connect to it.
func site(t *testing.T, connected func(*server.Session)) (*server.Server, *config.Device) {
	t.Helper()
	ca, err := pki.NewCA("CA")
	check(t, err)
	dir := t.TempDir()
	check(t, ca.Write(dir, false))
	dev, err := ca.Device("d", 0)
	check(t, err)
	check(t, dev.Write(dir, "d", false))
	pair, err := ca.Server(nil, 0)
	check(t, err)
	cert, err := pair.TLS()
	check(t, err)
	srv, err := server.New(&server.Config{
		TLS:   &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: ca.Pool()},
		Hooks: server.Hooks{Connected: connected}, Queue: "q",
	})
	check(t, err)
	web := httptest.NewTLSServer(srv)
	t.Cleanup(web.Close)
	t.Cleanup(func() { _ = srv.Close() })
	cfg := config.DefaultDevice()
	cfg.URL, cfg.Proxy = web.URL, config.ProxyDirect
	cfg.Inner = config.DeviceInner{Cert: pki.CertPath(dir, "d"), Key: pki.KeyPath(dir, "d"), CA: pki.CertPath(dir, pki.CAFile), ServerName: pki.ServerName}
	check(t, cfg.Validate())
	return srv, cfg
}

func TestRunHandlesSignalsAndStopsInOrder(t *testing.T) {
	up := make(chan *server.Session, 1)
	srv, cfg := site(t, func(s *server.Session) { up <- s })
	cfg.Signals = map[string]config.Command{
		"*": {Command: []string{"sh", "-c", `echo "$ATLS_SIGNAL_NAME: $(cat)"`}},
	}
	cfg.Services = map[string]string{"web": "tcp://127.0.0.1:1"}
	for _, once := range []bool{false, true} {
		var log lines
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- Run(ctx, cfg, Options{Logger: slog.New(slog.NewTextHandler(&log, nil)), Software: "test", Once: once})
		}()
		if s := <-up; s.Hello().Software != "test" || len(s.Hello().Services) != 1 {
			t.Errorf("hello %+v", s.Hello())
		}
		reply, err := srv.Push(t.Context(), "d", server.Signal{Name: "display", Data: []byte("hi")})
		if err != nil || reply != "display: hi" {
			t.Errorf("reply %q, %v", reply, err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run returned %v", err)
		}
		for _, words := range []string{`msg="outer certificate"`, "verified=false", `msg="session ready"`, "device=d", `msg="signal acked"`} {
			if !log.has(words) {
				t.Errorf("once %v: %s is not logged", once, words)
			}
		}
	}
}

func TestAQueuedSignalIsHandledOnceOverARestart(t *testing.T) {
	up := make(chan *server.Session, 1)
	srv, cfg := site(t, func(s *server.Session) { up <- s })
	cfg.Signals = map[string]config.Command{"*": {Command: []string{"echo", "done"}}}
	cfg.State = filepath.Join(t.TempDir(), "state")
	for _, want := range []struct {
		seq   uint64
		reply string
	}{{0, "done"}, {7, session.HandledBefore}} {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- Run(ctx, cfg, Options{Logger: slog.New(slog.DiscardHandler)}) }()
		if at := (<-up).Hello().Applied; at != nil && at.Seq != want.seq || at == nil && want.seq > 0 {
			t.Errorf("the device says %+v, want %d", at, want.seq)
		}
		if reply, err := srv.Push(t.Context(), "d", server.Signal{Name: "x", Seq: 7}); err != nil || reply != want.reply {
			t.Errorf("reply %q, %v", reply, err)
		}
		cancel()
		check(t, <-ended)
	}
}

func TestOnceEndsWithTheSession(t *testing.T) {
	_, cfg := site(t, func(s *server.Session) { go func() { _ = s.Close() }() })
	if err := Run(t.Context(), cfg, Options{Logger: slog.New(slog.DiscardHandler), Once: true}); !errors.Is(err, client.ErrPeerGone) {
		t.Errorf("error %v", err)
	}
}

func TestOuterVerifyRefusesAnUnknownCertificate(t *testing.T) {
	_, cfg := site(t, nil)
	cfg.Outer.Policy = config.PolicyVerify
	err := Run(t.Context(), cfg, Options{Logger: slog.New(slog.DiscardHandler), Once: true})
	if verify := (*tls.CertificateVerificationError)(nil); !errors.As(err, &verify) {
		t.Errorf("error %v", err)
	}
}

func TestRunSaysWhyItIsNotConnected(t *testing.T) {
	_, cfg := site(t, nil)
	cfg.URL = "http://127.0.0.1:1"
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := Run(ctx, cfg, Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), OnDisconnect: func(err error, retry time.Duration) {
		if err == nil || retry <= 0 {
			t.Errorf("error %v, retry in %s", err, retry)
		}
		cancel()
	}})
	if err != nil {
		t.Errorf("Run returned %v", err)
	}
	cfg.Inner.Key = cfg.Inner.CA
	var file *config.FileError
	if err := Run(ctx, cfg, Options{Logger: slog.New(slog.DiscardHandler)}); !errors.As(err, &file) {
		t.Errorf("a wrong key file: %v", err)
	}
}

// shortDir is a folder whose name leaves room for a unix socket.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "atls-")
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// testServerRoot is the certificate that the server at url shows, which is its own authority.
func testServerRoot(t *testing.T, url string) []byte {
	t.Helper()
	c, err := tls.Dial("tcp", strings.TrimPrefix(url, "https://"), &tls.Config{InsecureSkipVerify: true})
	check(t, err)
	defer func() { _ = c.Close() }()
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.ConnectionState().PeerCertificates[0].Raw})
}
