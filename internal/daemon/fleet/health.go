package fleet

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
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

// QueueLength is how many signals wait for a device.
type QueueLength struct {
	Device  string
	Signals uint64
}

// maxQueues bounds how many queues are told one by one.
const maxQueues = 10_000

// Queues are the devices for which signals wait, the longest queue first; none
// when they are very many.
func (f *Fleet) Queues(ctx context.Context) (all []QueueLength, err error) {
	st, err := f.store.js.Stream(ctx, signalStream)
	if err != nil {
		return nil, f.store.unavailable(err)
	}
	if st.CachedInfo().State.NumSubjects > maxQueues {
		return nil, nil // JetStream would make a list of them all
	}
	info, err := st.Info(ctx, jetstream.WithSubjectFilter(signalSubject+".*"))
	if err != nil {
		return nil, f.store.unavailable(err)
	}
	for subject, n := range info.State.Subjects {
		all = append(all, QueueLength{name(subject[len(signalSubject)+1:]), n})
	}
	slices.SortFunc(all, func(a, b QueueLength) int {
		return cmp.Or(cmp.Compare(b.Signals, a.Signals), cmp.Compare(a.Device, b.Device))
	})
	return all, nil
}
