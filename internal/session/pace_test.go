package session

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// A device that sends more signals than it may is slowed, and loses none.
func TestSignalsBeyondTheRateWait(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		var handled, waited atomic.Int32
		mux := new(Mux)
		mux.OnSignal("s", func(context.Context, Signal) (string, error) { handled.Add(1); return "", nil })
		a, b := net.Pipe()
		e := connect(t, a, b, nil, &Config{Mux: mux, SignalRate: 10, Limited: func(l Limit) {
			if l == LimitSignals {
				waited.Add(1)
			}
		}})
		begin := time.Now()
		for range 40 {
			if _, err := e.client.Signal(t.Context(), Signal{Name: "s"}); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(begin); took < 2900*time.Millisecond || took > 4*time.Second || handled.Load() != 40 || waited.Load() < 29 {
			t.Errorf("%d signals handled in %s, %d waited; want 40 in 3 s, 30 of them after a burst of 10", handled.Load(), took, waited.Load())
		}
	})
}
