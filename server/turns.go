package server

import (
	"context"
	"sync"
	"time"
)

// turns lets as many handshakes compute at once as there are cores, give or
// take. Without it those of a storm, when all devices come back at once, share
// the cores so evenly that all of them are late, and the server then works for
// devices that have given up. Handshakes that have begun go before new ones,
// and new ones in the order in which they came; nobody holds a turn while it
// waits for the network. Only so many are under way at once: devices that share
// a slow line, or a machine, are slow together.
type turns struct {
	mu    sync.Mutex
	free  int
	room  int // for handshakes under way; below 0 when some joined beyond it
	begun []chan struct{}
	fresh []chan struct{}
}

// newTurns makes n turns for up to most handshakes under way.
func newTurns(n, most int) *turns { return &turns{free: n, room: most} }

// Begin waits for the first turn of a handshake, until ctx ends: false. After true,
// and after Join, the handshake is under way until Leave.
func (t *turns) Begin(ctx context.Context) bool {
	t.mu.Lock()
	if t.free > 0 && t.room > 0 {
		t.free--
		t.room--
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
	t.room++
	t.giveLocked() // it was ours in the same moment
	return false
}

// Join is for a handshake that has begun elsewhere, or goes on.
func (t *turns) Join() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.room--
}

// Leave ends a handshake, or what is known of one that stands still.
func (t *turns) Leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.room++
	if t.free > 0 {
		t.free--
		t.giveLocked()
	}
}

// Aside gives a turn back while its owner waits, for the network mostly, and
// returns what takes another one. A handshake that waits for longer than standsStill
// is not under way meanwhile: whoever says nothing must not keep devices out, and
// a long line is no reason to begin fewer.
func (t *turns) Aside() (back func()) {
	t.Give()
	still := time.AfterFunc(standsStill, t.Leave)
	return func() {
		if !still.Stop() {
			t.Join()
		}
		t.Take()
	}
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
	switch {
	case len(t.begun) > 0:
		close(t.begun[0])
		t.begun = t.begun[1:]
	case len(t.fresh) > 0 && t.room > 0:
		close(t.fresh[0])
		t.fresh = t.fresh[1:]
		t.room--
	default:
		t.free++
	}
}
