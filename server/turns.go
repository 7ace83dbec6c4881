package server

import (
	"context"
	"sync"
)

// turns lets as many handshakes compute at once as there are cores, give or
// take. Without it those of a storm, when all devices come back at once, share
// the cores so evenly that all of them are late, and the server then works for
// devices that have given up. Handshakes that have begun go before new ones,
// and new ones in the order in which they came; nobody holds a turn while it
// waits for the network.
type turns struct {
	mu    sync.Mutex
	free  int
	begun []chan struct{}
	fresh []chan struct{}
}

func newTurns(n int) *turns { return &turns{free: n} }

// Begin waits for the first turn of a handshake, until ctx ends: false.
func (t *turns) Begin(ctx context.Context) bool {
	t.mu.Lock()
	if t.free > 0 {
		t.free--
		t.mu.Unlock()
		return true
	}
	mine := make(chan struct{})
	t.fresh = append(t.fresh, mine)
	t.mu.Unlock()
	select {
	case <-mine:
		return true
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, c := range t.fresh {
		if c == mine {
			t.fresh = append(t.fresh[:i], t.fresh[i+1:]...)
			return false
		}
	}
	t.giveLocked() // it was ours in the same moment
	return false
}

// Take waits for a further turn of a handshake that has begun.
func (t *turns) Take() {
	t.mu.Lock()
	if t.free > 0 {
		t.free--
		t.mu.Unlock()
		return
	}
	mine := make(chan struct{})
	t.begun = append(t.begun, mine)
	t.mu.Unlock()
	<-mine
}

// Give ends a turn.
func (t *turns) Give() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.giveLocked()
}

func (t *turns) giveLocked() {
	for _, q := range []*[]chan struct{}{&t.begun, &t.fresh} {
		if len(*q) > 0 {
			close((*q)[0])
			*q = (*q)[1:]
			return
		}
	}
	t.free++
}
