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
	line  int // of fresh: who would be behind it does not get its turn in time
	begun []chan struct{}
	fresh []chan struct{}
}

// newTurns makes n turns for up to most handshakes under way, and for line new
// ones that wait.
func newTurns(n, most, line int) *turns { return &turns{free: n, room: most, line: line} }

// turn is the part of one handshake, which is under way until Leave.
type turn struct {
	of       *turns
	patience time.Duration // for the network, what is left
	left     bool
}

// Begin waits for the first turn of a handshake, until ctx ends: nil. There is
// none either when too many wait already.
func (t *turns) Begin(ctx context.Context) *turn {
	h := &turn{of: t, patience: standsStill}
	t.mu.Lock()
	if t.free > 0 && t.room > 0 {
		t.free--
		t.room--
		t.mu.Unlock()
		return h
	}
	if len(t.fresh) >= t.line {
		t.mu.Unlock()
		return nil
	}
	mine := make(chan struct{})
	t.fresh = append(t.fresh, mine)
	t.mu.Unlock()
	select {
	case <-mine:
		return h
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, c := range t.fresh {
		if c == mine {
			t.fresh = append(t.fresh[:i], t.fresh[i+1:]...)
			return nil
		}
	}
	t.room++
	t.giveLocked() // it was ours in the same moment
	return nil
}

// Join is for a handshake that has begun elsewhere, or goes on. It has no turn yet.
func (t *turns) Join() *turn {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.room--
	return &turn{of: t, patience: standsStill}
}

// Leave ends a handshake, or what is known of one that stands still. A second
// Leave does nothing.
func (h *turn) Leave() {
	t := h.of
	t.mu.Lock()
	defer t.mu.Unlock()
	if h.left {
		return
	}
	h.left = true
	t.room++
	if t.free > 0 {
		t.free--
		t.giveLocked()
	}
}

// Aside gives a turn back while its owner waits, for the network mostly, and
// returns what takes another one. A handshake that has waited for longer than
// standsStill, all in all, is not under way any more: whoever says nothing, or a
// byte now and then, must not keep devices out, and a long line is no reason to
// begin fewer.
func (h *turn) Aside() (back func()) {
	began := time.Now()
	still := time.AfterFunc(h.patience, h.Leave)
	h.Give()
	return func() {
		still.Stop()
		h.patience = max(h.patience-time.Since(began), 0)
		h.Take()
	}
}

// Take waits for a further turn of a handshake that has begun.
func (h *turn) Take() {
	t := h.of
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
func (h *turn) Give() {
	h.of.mu.Lock()
	defer h.of.mu.Unlock()
	h.of.giveLocked()
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
