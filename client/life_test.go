package client

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// journal counts log lines by their message.
type journal struct {
	slog.Handler
	mu    sync.Mutex
	lines map[string]int
}

func newJournal() *journal { return &journal{Handler: slog.DiscardHandler, lines: map[string]int{}} }

func (*journal) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

func (j *journal) Handle(_ context.Context, r slog.Record) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines[r.Message]++
	return nil
}

func (j *journal) count(message string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.lines[message]
}

// TestServerGoneForDays: tries grow rare and stay scattered, each is one line
// in the log, and nothing piles up.
func TestServerGoneForDays(t *testing.T) {
	const days = 4
	inner := deviceTLS(t) // made outside the bubble, whose clock is another
	synctest.Test(t, func(t *testing.T) {
		log := newJournal()
		gone := errors.New("connection refused")
		var pauses []time.Duration
		ctx, cancel := context.WithTimeout(t.Context(), days*24*time.Hour)
		defer cancel()
		var before, after runtime.MemStats
		c, err := New(&Config{
			URL: "http://127.0.0.1:1", TLS: inner, Logger: slog.New(log),
			Proxy: func(*http.Request) (*url.URL, error) { return nil, gone },
			OnDisconnect: func(err error, retry time.Duration) {
				if !errors.Is(err, gone) {
					t.Errorf("%v", err)
				}
				if pauses = append(pauses, retry); len(pauses) == 100 {
					runtime.GC()
					runtime.ReadMemStats(&before)
				}
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		c.notice.addrs = func() []string { return nil }
		if err := c.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)

		var sum time.Duration
		late := pauses[20:]
		different := map[time.Duration]bool{}
		for _, p := range late {
			sum += p
			different[p] = true
			if p < backoffMin || p > backoffMin+backoffMax {
				t.Errorf("a pause of %s", p)
			}
		}
		if mean := sum / time.Duration(len(late)); mean < 2*time.Minute || mean > 3*time.Minute || len(different) < len(late)*9/10 {
			t.Errorf("pauses of %s in the mean, %d different ones of %d", mean, len(different), len(late))
		}
		if n := log.count("no session"); n != len(pauses) || len(log.lines) != 1 {
			t.Errorf("%d tries, and in the log %v", len(pauses), log.lines)
		}
		if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 1<<20 {
			t.Errorf("the heap has grown by %d bytes in %d tries", grown, len(pauses))
		}
	})
}

// TestClockThatIsSetKeepsTheSession: a device without a battery connects in
// 1970, and NTP sets its clock then.
func TestClockThatIsSetKeepsTheSession(t *testing.T) {
	s := newTestSite(t)
	log := newJournal()
	conf := s.config()
	conf.Logger = slog.New(log)
	c, err := New(conf)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{addrs: []string{"10.0.0.2/24"}}
	c.notice = w.notice()
	s.runs(c)
	was := s.over(c, CarrierWebSocket, nil)
	const since1970 = 56 * 365 * 24 * time.Hour
	w.set(since1970, w.addrs...)
	c.notice.look()
	s.eventually(func() bool {
		return log.count("the machine slept, or its clock was set: asking the server for a sign of life") == 1
	})
	w.set(since1970)
	c.notice.look()
	s.eventually(func() bool {
		return log.count("the network has changed: asking the server for a sign of life") == 1
	})
	if c.Session() != was || was.Err() != nil {
		t.Errorf("another session: %v", was.Err())
	}
}

// TestDeathInSleepIsNoBoxes: what ends with a suspend says nothing of WebSocket.
func TestDeathInSleepIsNoBoxes(t *testing.T) {
	s := newTestSite(t)
	c, err := New(s.config())
	if err != nil {
		t.Fatal(err)
	}
	w := new(world)
	c.notice = w.notice()
	s.runs(c)
	was := s.over(c, CarrierWebSocket, nil)
	w.set(time.Hour)
	s.cut()
	s.over(c, CarrierWebSocket, was)
	if len(c.paths.known) != 0 {
		t.Errorf("remembered: %v", c.paths.known)
	}
}
