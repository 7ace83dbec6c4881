//go:build unix

package device

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/pki"
	"github.com/atls-ws/atls-ws/server"
)

// running runs a device until the test ends.
func running(t *testing.T, cfg *config.Device, o Options) *lines {
	t.Helper()
	log := &lines{}
	o.Logger = slog.New(slog.NewTextHandler(log, nil))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, cfg, o) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return log
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func TestNewBundleEndsThePauseOfADeviceThatVerifies(t *testing.T) {
	up := make(chan *server.Session, 1)
	_, cfg := site(t, func(s *server.Session) { up <- s })
	cfg.State = shortDir(t)
	cfg.Outer.Policy = config.PolicyVerify
	cfg.Outer.Roots = filepath.Join(cfg.State, "roots.pem")
	other, err := pki.NewCA("of another network")
	check(t, err)
	check(t, os.WriteFile(cfg.Outer.Roots, other.CertPEM(), 0o600))
	reload := make(chan os.Signal, 1)
	log := running(t, cfg, Options{Reload: reload, Software: "test/1", Explain: func(err error) (string, string) { return "no: " + err.Error(), "get the bundle" }})
	eventually(t, "a status that says why there is no session", func() bool {
		s, err := ReadStatus(t.Context(), cfg.State)
		return err == nil && !s.Connected && strings.HasPrefix(s.LastError, "no: ") && s.Next == "get the bundle" && s.Failures > 0
	})
	// Half a file is refused, and what is right is used at once, however long the pause.
	check(t, os.WriteFile(cfg.Outer.Roots, []byte("garbage"), 0o600))
	reload <- os.Interrupt
	eventually(t, "a refusal with the next step", func() bool { return log.has("not read again") && log.has("atls-ws bootstrap") })
	check(t, os.WriteFile(cfg.Outer.Roots, testServerRoot(t, cfg.URL), 0o600))
	reload <- os.Interrupt
	select {
	case <-up:
	case <-time.After(20 * time.Second):
		t.Fatal("the device did not connect with the new bundle")
	}
	eventually(t, "a status that says connected", func() bool {
		s, err := ReadStatus(t.Context(), cfg.State)
		return err == nil && s.Connected && s.Device == "d" && s.Outer != nil && s.Outer.Verified && s.Sessions == 1 && s.Software == "test/1"
	})
}

func TestStatusOfNoDevice(t *testing.T) {
	if _, err := ReadStatus(t.Context(), t.TempDir()); !errors.Is(err, ErrNotRunning) {
		t.Error(err)
	}
}

func TestClockThatIsNotSet(t *testing.T) {
	_, cfg := site(t, nil)
	cfg.State = t.TempDir()
	reset := time.Date(1970, 1, 1, 0, 5, 0, 0, time.UTC)
	c := newClock(cfg, func() time.Time { return reset })
	if !c.behind() || time.Since(c.Now()) > 24*time.Hour {
		t.Errorf("the floor is %s, of %s", c.floor, c.source)
	}
	cfg.SetClock(c.Now)
	if _, err := cfg.TLS(); err != nil {
		t.Errorf("a certificate that is valid by the floor: %v", err)
	}
	cfg.SetClock(func() time.Time { return reset })
	if _, err := cfg.TLS(); err == nil {
		t.Error("without the floor the certificate was valid in 1970")
	}
	log := &lines{}
	c.say(slog.New(slog.NewTextHandler(log, nil)))
	if !log.has("the clock is not set") || !log.has("set the clock, or let NTP do it") {
		t.Error("the log does not say so")
	}

	// What a server told counts; a file of a time after the certificate's end does not.
	told := time.Now().Add(48 * time.Hour).Truncate(time.Second)
	check(t, noteTime(cfg.State, told))
	check(t, noteTime(cfg.State, told.Add(-time.Hour)))
	if c := newClock(cfg, func() time.Time { return reset }); !c.floor.Equal(told) {
		t.Errorf("the floor is %s, want the server's %s", c.floor, told)
	}
	check(t, os.Chtimes(cfg.Inner.CA, told.AddDate(50, 0, 0), told.AddDate(50, 0, 0)))
	if c := newClock(cfg, func() time.Time { return reset }); !c.floor.Equal(told) {
		t.Errorf("a file of the far future moved the floor to %s", c.floor)
	}
}
