//go:build linux

package fleet

import (
	"errors"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/atls-ws/atls-ws/internal/daemon/admin"
)

// What a sender was told is queued is on the disk, however full that gets: first
// to the reserve, then, as if other programs had taken that, to the last byte.
func TestNothingQueuedIsLostOnAFullDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=48m"); err != nil {
		t.Skipf("a small disk needs root: %v", err)
	}
	defer func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) }()
	s := newSite(t, false)
	s.cfg.Dir = filepath.Join(dir, "data")
	s.cfg.PerDevice = 100_000
	s.start()
	data := make([]byte, 60<<10)
	queued := 0
	fill := func() error {
		for {
			_, err := s.f.Send(t.Context(), &Request{Target: Target{Device: "d"}, Name: "do", Data: data}, func(o admin.Outcome) {
				if o.State == admin.Queued {
					queued++
				}
			})
			if err != nil {
				return err
			}
		}
	}
	var un *UnavailableError
	err := fill()
	if !errors.As(err, &un) || un.Next() == "" || queued < 100 {
		t.Errorf("%d queued, %v", queued, err)
	}
	t.Logf("%d queued, then: %v", queued, err)
	s.f.store.reserve = 0
	if err = fill(); !errors.As(err, &un) || !strings.Contains(un.Next(), "start the server again") {
		t.Errorf("%d queued, %v", queued, err)
	}
	t.Logf("%d queued, then: %v; next: %s", queued, err, un.Next())
	s.stop()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=200m"); err != nil {
		t.Fatal(err)
	}
	s.start()
	if n := len(must[[]admin.QueuedSignal](t)(s.f.Waiting(t.Context(), "d"))); n < queued {
		t.Errorf("%d signals wait, and %d senders were told so", n, queued)
	}
}
