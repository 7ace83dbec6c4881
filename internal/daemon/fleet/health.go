package fleet

import (
	"context"
	"errors"
)

// Health is how the store of the signals does.
type Health struct {
	Up       bool   // it answers
	Embedded bool   // it is part of this process
	Signals  uint64 // that wait, in all queues
	Devices  int    // whose queues have signals
	Bytes    uint64 // of all queues
	Links    int    // connected devices whose queues are delivered
	Free     uint64 // bytes left on the disk of an embedded store
	Err      error  // why signals are not taken just now; nil: they are
}

// Health asks the store. ctx bounds that.
func (f *Fleet) Health(ctx context.Context) Health {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	h := Health{Embedded: f.store.embedded != nil, Err: f.store.room()}
	f.mu.Lock()
	h.Links = len(f.links)
	f.mu.Unlock()
	if h.Embedded {
		h.Free, _ = free(f.store.dir) // unknown elsewhere than on unix
	}
	st, err := f.store.js.Stream(ctx, signalStream)
	if err != nil {
		h.Err = errors.Join(h.Err, f.store.unavailable(err))
		return h
	}
	state := st.CachedInfo().State
	h.Up, h.Signals, h.Devices, h.Bytes = true, state.Msgs, int(state.NumSubjects), state.Bytes
	return h
}

// Stopped says that the embedded store has stopped for good, and that only a new
// start of the process can help.
func (f *Fleet) Stopped() bool {
	return f.store.embedded != nil && (f.store.natsLog.stopped() != "" || !f.store.embedded.JetStreamEnabled())
}
