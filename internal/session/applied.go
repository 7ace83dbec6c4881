package session

import (
	"context"
	"log/slog"
	"sync"

	"github.com/atls-ws/atls-ws/internal/proto"
)

// Applied is the position in the server's queue up to which this end has
// handled the signals: one that comes again, in a later session, is acked and
// not handled again. It outlives sessions; a restart too, if it is saved.
type Applied struct {
	turn chan struct{} // held while a queued signal is handled, whichever session brought it
	save func(Position) error

	mu sync.Mutex
	at Position
}

// Position is a place in a queue. Sequences of different queues do not compare.
type Position = proto.Position

// NewApplied starts at a position that was saved, or at the zero Position. save,
// if not nil, is called with each new position before the signal is acked. An
// error of it is logged: the signal could then be handled again after a restart.
func NewApplied(at Position, save func(Position) error) *Applied {
	return &Applied{turn: make(chan struct{}, 1), at: at, save: save}
}

// position is where this end is, for Hello.
func (a *Applied) position() Position {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.at
}

// once runs handle unless the signal at p has been handled. ctx is the
// session's: what it cuts short does not count as handled.
func (a *Applied) once(ctx context.Context, p Position, log *slog.Logger, handle func() proto.Ack) (ack proto.Ack, again bool) {
	select {
	case a.turn <- struct{}{}:
		defer func() { <-a.turn }()
	case <-ctx.Done():
		return proto.Ack{Code: proto.Closing, Text: "the session ends"}, false
	}
	if at := a.position(); p.Queue == at.Queue && p.Seq <= at.Seq {
		return proto.Ack{}, true
	}
	ack = handle()
	if ack.Code != proto.OK && ctx.Err() != nil {
		return ack, false
	}
	a.mu.Lock()
	a.at = p
	a.mu.Unlock()
	if a.save != nil {
		if err := a.save(p); err != nil {
			log.Warn("the position in the queue of signals is not saved", "err", err)
		}
	}
	return ack, false
}
