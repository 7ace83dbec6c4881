//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/child"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/sim"
)

// applied is what simulated devices have handled, in order.
type applied struct {
	mu  sync.Mutex
	got map[string][]string // by device: data
	ids map[string]int      // by device and id
}

func (a *applied) handle(device string, s client.Signal) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.got[device] = append(a.got[device], string(s.Data))
	a.ids[fmt.Sprintf("%s %x", device, s.ID)]++
	return "did " + string(s.Data), nil
}

func (a *applied) has(device, data string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, d := range a.got[device] {
		if d == data {
			return true
		}
	}
	return false
}

func (a *applied) count() (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, all := range a.got {
		n += len(all)
	}
	return n
}

// storm is pushes to many devices while the server is killed.
type storm struct {
	t       *testing.T
	admin   *admin.Client
	applied *applied
	fleet   *sim.Fleet
	told    atomic.Int64
	lies    atomic.Int64
	repeats atomic.Int64
}

// push sends the nth signal to a device, again and again with its id until the
// server says what became of it, and checks that this is true.
func (s *storm) push(ctx context.Context, device string, n int) error {
	p := &admin.Push{Device: device, Name: "do", Data: []byte(fmt.Sprint(n)), Timeout: time.Minute}
	for {
		o, err := s.admin.Push(ctx, p)
		if err == nil {
			s.told.Add(1)
			if o.State == admin.Acked {
				if !s.applied.has(device, fmt.Sprint(n)) {
					s.lies.Add(1)
				}
				return nil
			}
			if o.State != admin.Queued && o.State != admin.Delivered {
				return fmt.Errorf("%s: %s", device, o)
			}
			return nil
		}
		var broken *admin.BrokenError
		var unreachable *admin.UnreachableError
		if !errors.As(err, &broken) && !errors.As(err, &unreachable) {
			return fmt.Errorf("%s: %w", device, err)
		}
		s.repeats.Add(1)
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// TestKilledServerLosesAndRepeatsNothing kills the server while signals are
// pushed to devices of which half are offline. ATLS_E2E_SIGNALS=10000 and
// ATLS_E2E_DEVICES=500 make it a storm, of one to three minutes.
func TestKilledServerLosesAndRepeatsNothing(t *testing.T) {
	signals, devices := scale("ATLS_E2E_SIGNALS", 1000), scale("ATLS_E2E_DEVICES", 50)
	s := newSite(t)
	addr := freeAddr(t)
	args := replace(s.serverArgs(false), "127.0.0.1:0", addr)
	server := start(t, "server", exec.Command(exe, args...))
	await(t, server, "listening")

	seen := &applied{got: map[string][]string{}, ids: map[string]int{}}
	f, err := sim.New(sim.Options{URL: "http://" + addr, CA: s.ca, Count: devices, Handle: seen.handle})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { f.Run(ctx, 0, devices/2, 500) })

	w := &storm{t: t, admin: admin.NewClient(s.admin()), applied: seen, fleet: f}
	began := time.Now()
	var pushing sync.WaitGroup
	const pushers = 16
	for k := range pushers { // each has its devices, so the order of a device's signals is known
		pushing.Go(func() {
			for n := range signals / devices {
				for i := k; i < devices; i += pushers {
					if err := w.push(ctx, f.ID(i), n); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	for _, part := range []int64{4, 2} { // after a quarter and after half of the pushes
		for w.told.Load() < int64(signals)/part && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		kill9(t, server)
		server = start(t, "server", exec.Command(exe, args...))
		await(t, server, "listening")
	}
	pushing.Wait()
	pushed := time.Since(began)
	running.Go(func() { f.Run(ctx, devices/2, devices, 500) })
	total := signals / devices * devices
	for seen.count() < total && ctx.Err() == nil {
		time.Sleep(5 * time.Millisecond)
	}
	t.Logf("%d signals to %d devices pushed in %s, all applied after %s; %d pushes were repeated; %+v", total, devices,
		pushed.Round(time.Millisecond), time.Since(began).Round(time.Millisecond), w.repeats.Load(), f.Stats())
	w.check(signals/devices, devices)
}

// check looks at every device: each signal once, in order, and known as acked.
func (s *storm) check(each, devices int) {
	s.t.Helper()
	if n := s.lies.Load(); n > 0 {
		s.t.Errorf("%d senders were told acked before the device had it", n)
	}
	s.applied.mu.Lock()
	defer s.applied.mu.Unlock()
	for what, n := range s.applied.ids {
		if n != 1 {
			s.t.Errorf("%s was applied %d times", what, n)
		}
	}
	for i := range devices {
		got := s.applied.got[s.fleet.ID(i)]
		if len(got) != each {
			s.t.Errorf("%s has %d signals, want %d", s.fleet.ID(i), len(got), each)
			continue
		}
		for n, data := range got {
			if data != fmt.Sprint(n) {
				s.t.Errorf("%s got %s", s.fleet.ID(i), strings.Join(got, " "))
				break
			}
		}
	}
	left := 0
	for i := range devices {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		for ctx.Err() == nil { // the last acks may still be on their way
			q, err := s.admin.Queue(ctx, s.fleet.ID(i))
			if err != nil {
				s.t.Error(err)
			}
			if len(q) == 0 {
				break
			}
			left++
			time.Sleep(5 * time.Millisecond)
		}
		if ctx.Err() != nil {
			s.t.Errorf("the queue of %s is not empty", s.fleet.ID(i))
		}
		cancel()
	}
	all, err := s.admin.Signals(context.Background(), 1000)
	if err != nil {
		s.t.Error(err)
	}
	for _, sig := range all {
		shown, err := s.admin.Signal(context.Background(), sig.ID)
		if err != nil || shown.Counts[admin.Acked] != 1 || !shown.Complete {
			s.t.Errorf("%s: %+v, %v", sig.ID, shown, err)
		}
	}
}

func kill9(t *testing.T, c *child.Child) {
	t.Helper()
	if err := syscall.Kill(c.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-c.Done()
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func scale(name string, normal int) int {
	n := normal
	_, _ = fmt.Sscan(os.Getenv(name), &n)
	return n
}
