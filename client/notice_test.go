package client

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// world is what a notice looks at.
type world struct {
	mu    sync.Mutex
	ahead time.Duration // of the wall clock
	addrs []string
}

func (w *world) notice() *notice {
	n := newNotice()
	n.wall = func() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return time.Now().Add(w.ahead) }
	n.addrs = func() []string { w.mu.Lock(); defer w.mu.Unlock(); return w.addrs }
	return n
}

func (w *world) set(ahead time.Duration, addrs ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ahead, w.addrs = ahead, addrs
}

func TestWhatHappensToTheMachineIsNoticed(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*world)
		want   string // "" for nothing
	}{
		{"nothing", func(*world) {}, ""},
		{"a clock that is corrected a little", func(w *world) { w.ahead = 3 * time.Second }, ""},
		{"a clock that goes back", func(w *world) { w.ahead = -time.Hour }, ""},
		{"suspended: the monotonic clock stands still", func(w *world) { w.ahead = 8 * time.Hour }, "slept 8h0m5s"},
		{"stopped: both clocks go on", func(*world) { time.Sleep(20 * time.Second) }, "slept 25s"},
		{"another address", func(w *world) { w.addrs = []string{"10.0.0.7/24"} }, "added 10.0.0.7/24 removed 10.0.0.2/24"},
		{"one more address", func(w *world) { w.addrs = append(w.addrs, "10.9.0.7/24") }, "added 10.9.0.7/24"},
		{"no network", func(w *world) { w.addrs = nil }, "removed 10.0.0.2/24"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &world{addrs: []string{"10.0.0.2/24"}}
				n := w.notice()
				n.start()
				tc.change(w)
				time.Sleep(lookEvery)
				n.look()
				if got := told(n); got != tc.want {
					t.Errorf("%q, want %q", got, tc.want)
				}
				if n.lately() != (tc.want != "") {
					t.Error("lately is wrong")
				}
			})
		})
	}
}

// told is the event that waits, "" for none.
func told(n *notice) string {
	select {
	case e := <-n.events:
		var s []string
		if e.slept > 0 {
			s = append(s, "slept "+e.slept.String())
		}
		if len(e.added) > 0 {
			s = append(s, "added "+strings.Join(e.added, ","))
		}
		if len(e.removed) > 0 {
			s = append(s, "removed "+strings.Join(e.removed, ","))
		}
		return strings.Join(s, " ")
	default:
		return ""
	}
}

// TestEventsThatWaitAreJoined: a cable that was out and is in again.
func TestEventsThatWaitAreJoined(t *testing.T) {
	w := &world{addrs: []string{"a"}}
	n := w.notice()
	n.start()
	w.addrs = nil
	n.look()
	w.addrs = []string{"a", "b"}
	n.look()
	w.addrs = []string{"b"}
	n.look()
	if got := told(n); got != "added b removed a" {
		t.Errorf("%q", got)
	}
	if got := told(n); got != "" {
		t.Errorf("%q is left", got)
	}
}

func TestPauseEndsEarly(t *testing.T) {
	const long = 5 * time.Minute
	inner := deviceTLS(t) // made outside the bubble, whose clock is another
	for _, tc := range []struct {
		name    string
		e       event
		soonest time.Duration
		ahead   time.Duration // of the wall clock, when it happens
		renewed bool          // a moment ago
		want    time.Duration
	}{
		{"woken up", event{slept: time.Hour}, 0, 0, false, time.Second},
		{"an address more", event{added: []string{"a"}}, 0, 0, false, time.Second},
		{"an address less", event{removed: []string{"a"}}, 0, 0, false, long},
		{"addresses that come all the time", event{added: []string{"a"}}, 0, 0, true, long},
		{"the server said when", event{added: []string{"a"}}, time.Minute, 0, false, time.Minute},
		{"the server said when, and that was over in its sleep", event{slept: time.Hour}, time.Minute, time.Hour, false, time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, err := New(&Config{URL: "https://localhost", TLS: inner})
				if err != nil {
					t.Fatal(err)
				}
				w := new(world)
				n := w.notice()
				b := &backoff{tries: 9}
				if tc.renewed {
					b.renew(time.Now())
				}
				time.AfterFunc(time.Second, func() { w.set(tc.ahead); n.events <- tc.e })
				began := time.Now()
				if err := c.pause(t.Context(), long, tc.soonest, b, n); err != nil {
					t.Fatal(err)
				}
				if d := time.Since(began); d != tc.want {
					t.Errorf("after %s, want %s", d, tc.want)
				}
				if (b.tries == 0) != (tc.want != long) {
					t.Errorf("%d tries", b.tries)
				}
			})
		})
	}
}

func TestWaitEndsEarly(t *testing.T) {
	for _, tc := range []struct {
		added bool
		want  time.Duration
	}{{false, time.Minute}, {true, 4 * lookEvery}} {
		synctest.Test(t, func(t *testing.T) {
			w := new(world)
			began := time.Now()
			if tc.added {
				time.AfterFunc(3*lookEvery+1, func() { w.set(0, "10.0.0.2/24") })
			}
			if early, err := w.notice().wait(t.Context(), time.Minute); err != nil || early != tc.added || time.Since(began) != tc.want {
				t.Errorf("early %v after %s, %v", early, time.Since(began), err)
			}
		})
	}
}

// TestAddressesAreOfThisMachine, and none of them is loopback.
func TestAddressesAreOfThisMachine(t *testing.T) {
	if a := addresses(); slices.ContainsFunc(a, func(s string) bool { return strings.HasPrefix(s, "127.") || s == "::1/128" }) {
		t.Errorf("%v", a)
	}
}
