//go:build unix

package device

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestStatusWhileItEnrolls: a device without a certificate, whose server is away,
// says so.
func TestStatusWhileItEnrolls(t *testing.T) {
	_, cfg := site(t, nil)
	dir := shortDir(t)
	cfg.URL, cfg.State = "http://127.0.0.1:1", dir
	cfg.Inner.Cert, cfg.Inner.Key = filepath.Join(dir, "new.pem"), filepath.Join(dir, "new-key.pem")
	cfg.Enroll.On, cfg.Enroll.Device, cfg.Enroll.Token = true, "new", filepath.Join(dir, "token")
	check(t, os.WriteFile(cfg.Enroll.Token, []byte("once"), 0o600))
	ctx, cancel := context.WithCancel(t.Context())
	ended, failed := make(chan error, 1), make(chan struct{}, 10)
	go func() {
		ended <- Run(ctx, cfg, Options{Logger: slog.New(slog.DiscardHandler), OnDisconnect: func(error, time.Duration) {
			select {
			case failed <- struct{}{}:
			default:
			}
		}})
	}()
	select {
	case <-failed:
	case err := <-ended:
		t.Fatalf("Run returned %v", err)
	}
	s, err := ReadStatus(t.Context(), dir)
	check(t, err)
	if s.Connected || s.LastError == "" || s.Failures == 0 || s.RetryAt.IsZero() {
		t.Errorf("%+v", s)
	}
	cancel()
	check(t, <-ended)
}
