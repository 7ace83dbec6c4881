package device

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/atls-ws/atls-ws/internal/config"
)

// clockFile has, as its time of modification, the newest time that a server told.
const clockFile = "clock"

// clock is the system's, but never behind a floor that it must have passed: a
// device without a battery begins in 1970 and would take every certificate for
// one that is not valid yet.
type clock struct {
	system  func() time.Time
	floor   time.Time
	source  string // of the floor
	started time.Time
}

// Now is the time by which certificates are judged.
func (c *clock) Now() time.Time {
	now := c.system()
	if now.Before(c.floor) {
		// The system's clock may jump meanwhile; the monotonic part does not.
		return c.floor.Add(time.Since(c.started))
	}
	return now
}

func (c *clock) behind() bool { return c.system().Before(c.floor) }

// newClock takes as floor the newest of what lies in the past for certain: when
// the program was built, when its files were written, from when on its own
// certificate is valid, and what a server has told.
func newClock(cfg *config.Device, system func() time.Time) *clock {
	c := &clock{system: system, started: time.Now()}
	until := time.Time{}
	at := func(t time.Time, source string) {
		// A file that was written by a clock that ran ahead must not end the
		// device's own certificate.
		if t.After(c.floor) && (until.IsZero() || t.Before(until)) {
			c.floor, c.source = t, source
		}
	}
	if data, err := os.ReadFile(cfg.Inner.Cert); err == nil {
		if block, _ := pem.Decode(data); block != nil {
			if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
				until = cert.NotAfter
				at(cert.NotBefore, "the beginning of "+cfg.Inner.Cert)
			}
		}
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if t, err := time.Parse(time.RFC3339, s.Value); s.Key == "vcs.time" && err == nil {
				at(t, "the program's build")
			}
		}
	}
	files := []string{cfg.Inner.Cert, cfg.Inner.Key, cfg.Inner.CA, cfg.Outer.Roots}
	if exe, err := os.Executable(); err == nil {
		files = append(files, exe)
	}
	if cfg.State != "" {
		files = append(files, filepath.Join(cfg.State, clockFile), filepath.Join(cfg.State, stateFile))
	}
	for _, file := range files {
		if info, err := os.Stat(file); file != "" && err == nil {
			at(info.ModTime(), file)
		}
	}
	return c
}

// say logs that the system's clock is not set.
func (c *clock) say(log *slog.Logger) {
	if c.behind() {
		log.Warn("the clock is not set: certificates are judged by a later time that has passed for certain",
			"clock", c.system().UTC().Format(time.RFC3339), "judged_at", c.floor.UTC().Format(time.RFC3339), "known_from", c.source,
			"next", "set the clock, or let NTP do it")
	}
}

// noteTime keeps the time that a server told, for a start without a clock.
func noteTime(dir string, t time.Time) error {
	path := filepath.Join(dir, clockFile)
	if info, err := os.Stat(path); err == nil && !t.After(info.ModTime()) {
		return nil
	} else if errors.Is(err, fs.ErrNotExist) {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_ = f.Close()
	}
	return os.Chtimes(path, t, t)
}
