package fleet

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/atls-ws/atls-ws/internal/daemon/admin"
)

// ErrUnknown says that nothing is known of a signal: it was never sent, or so
// long ago that its outcomes have been forgotten.
var ErrUnknown = errors.New("no such signal")

// listed is how many sends List looks back over.
const listed = 2000

// Watch calls fn for the outcome of a signal at each of its devices, as it is
// stored, whichever node that is on. stop ends it and waits for no one.
func (f *Fleet) Watch(id string, fn func(admin.Outcome)) (stop func(), err error) {
	sub, err := f.store.nc.Subscribe(doneSubject+"."+id+".*", func(m *nats.Msg) {
		if o, err := parseOutcome(m); err == nil {
			fn(o)
		}
	})
	if err == nil {
		err = f.store.nc.FlushTimeout(apiTimeout) // from here on nothing is missed
	}
	if err != nil {
		return nil, f.store.unavailable(err)
	}
	return func() { _ = sub.Unsubscribe() }, nil
}

// Show tells what has become of a signal so far. The error is ErrUnknown when
// nothing is known of it.
func (f *Fleet) Show(ctx context.Context, id string) (*admin.Signal, error) {
	if _, err := parseID(id); err != nil {
		return nil, &RequestError{err}
	}
	s := &admin.Signal{ID: id}
	out := map[string]admin.Outcome{}
	var records []sendRecord
	err := f.store.walk(ctx, sendStream, sendSubject+"."+id+".*", 1, func(m *nats.Msg) bool {
		var r sendRecord
		if json.Unmarshal(m.Data, &r) != nil {
			return true
		}
		fill(s, &r)
		records = append(records, r)
		for d, text := range r.Failed {
			out[d] = admin.Outcome{Signal: id, Device: d, State: admin.Failed, Text: text, Time: r.Created}
		}
		return true
	})
	if err == nil {
		err = f.addWaiting(ctx, records, out)
	}
	if err == nil {
		err = f.store.walk(ctx, outcomeStream, outSubject+"."+id+".*", 1, func(m *nats.Msg) bool {
			if o, err := parseOutcome(m); err == nil {
				out[o.Device] = o
			}
			return true
		})
	}
	if err != nil {
		return nil, err
	}
	if len(out) == 0 && s.Name == "" {
		return nil, fmt.Errorf("%s: %w", id, ErrUnknown)
	}
	s.Counts = map[string]int{}
	for _, o := range out {
		s.Counts[o.State]++
		s.Outcomes = append(s.Outcomes, o)
	}
	s.Devices = len(out)
	slices.SortFunc(s.Outcomes, func(a, b admin.Outcome) int { return cmp.Compare(a.Device, b.Device) })
	return s, nil
}

// addWaiting adds the state that a signal has at its devices as long as there is
// no outcome.
func (f *Fleet) addWaiting(ctx context.Context, records []sendRecord, out map[string]admin.Outcome) error {
	for i := range records {
		r := &records[i]
		elsewhere, err := f.elsewhere(ctx, r.ID, r.Devices)
		if err != nil {
			return err
		}
		for _, d := range r.Devices {
			out[d] = f.waiting(r, d, elsewhere)
		}
	}
	return nil
}

// waiting is the state of a signal without an outcome.
func (f *Fleet) waiting(r *sendRecord, device string, elsewhere *others) admin.Outcome {
	o := admin.Outcome{Signal: r.ID, Device: device, State: admin.Queued, Time: r.Created}
	l := f.link(device)
	switch {
	case l != nil && l.awaits(r.ID), elsewhere.awaits(device):
		o.State = admin.Delivered
	case time.Now().After(r.Expires):
		// Nobody writes this down: an offline device has no timer.
		o.State, o.Time = admin.Expired, r.Expires
	case l == nil && !elsewhere.has(device):
		o.Text = admin.OfflineText
	}
	return o
}

// List gives the latest sends, newest first, at most n of them, without their
// outcomes.
func (f *Fleet) List(ctx context.Context, n int) ([]admin.Signal, error) {
	info, cancel := context.WithTimeout(ctx, apiTimeout)
	st, err := f.store.js.Stream(info, sendStream)
	cancel()
	if err != nil {
		return nil, f.store.unavailable(err)
	}
	from := uint64(1)
	if last := st.CachedInfo().State.LastSeq; last > listed {
		from = last - listed
	}
	all := []admin.Signal{}
	err = f.store.walk(ctx, sendStream, sendSubject+".*.0", from, func(m *nats.Msg) bool {
		var r sendRecord
		if json.Unmarshal(m.Data, &r) == nil {
			var s admin.Signal
			s.ID = r.ID
			fill(&s, &r)
			all = append(all, s)
		}
		return true
	})
	slices.Reverse(all)
	return all[:min(n, len(all))], err
}

// Waiting gives the signals that wait for a device, in their order.
func (f *Fleet) Waiting(ctx context.Context, device string) ([]admin.QueuedSignal, error) {
	if err := CheckDevice(device); err != nil {
		return nil, err
	}
	unacked := f.unackedOf(ctx, device)
	all := []admin.QueuedSignal{}
	err := f.store.walk(ctx, signalStream, signalSubject+"."+token(device), 1, func(m *nats.Msg) bool {
		sig, err := parseSignal(m)
		if err != nil || time.Now().After(sig.Expiry) {
			return true
		}
		q := admin.QueuedSignal{ID: m.Header.Get(idHeader), Name: sig.Name, ContentType: sig.ContentType, Bytes: len(sig.Data),
			Created: stored(m), Expires: sig.Expiry.UTC(), State: admin.Queued}
		if slices.Contains(unacked, q.ID) {
			q.State = admin.Delivered
		}
		all = append(all, q)
		return true
	})
	return all, err
}

// unackedOf are the signals that a device has and has not answered.
func (f *Fleet) unackedOf(ctx context.Context, device string) []string {
	if l := f.link(device); l != nil {
		return l.unanswered()
	}
	if p, err := f.Locate(ctx, device); err == nil && p != nil {
		r, _ := f.nodes.ask(ctx, p.Node, question{Device: device}) // without an answer they read as queued
		return r.Unacked
	}
	return nil
}

// Cancel takes a signal out of the queues in which it still waits, or of one
// device's when that is named, and returns what it is at each then.
func (f *Fleet) Cancel(ctx context.Context, id, device string) ([]admin.Outcome, error) {
	s, err := f.Show(ctx, id)
	if err != nil {
		return nil, err
	}
	var all []admin.Outcome
	for _, o := range s.Outcomes {
		if device != "" && o.Device != device {
			continue
		}
		if o.State == admin.Queued {
			if o, err = f.cancelOne(ctx, o); err != nil {
				return all, err
			}
		}
		all = append(all, o)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s for device %s: %w", id, device, ErrUnknown)
	}
	return all, nil
}

func (f *Fleet) cancelOne(ctx context.Context, o admin.Outcome) (admin.Outcome, error) {
	var found *nats.Msg
	err := f.store.walk(ctx, signalStream, signalSubject+"."+token(o.Device), 1, func(m *nats.Msg) bool {
		if m.Header.Get(idHeader) == o.Signal {
			found = m
		}
		return found == nil
	})
	if err != nil || found == nil { // answered just now
		return o, err
	}
	r, online, err := f.holder(ctx, o.Device, sequence(found))
	if err != nil {
		return o, err
	}
	if online && !r.Taken {
		o.State = admin.Delivered
		return o, nil
	}
	o.State, o.Text, o.Time = admin.Canceled, "", time.Now().UTC()
	return o, f.remove(ctx, found, &o)
}

// fill takes what a part of a fan-out says into s.
func fill(s *admin.Signal, r *sendRecord) {
	if s.Name == "" {
		s.Name, s.ContentType, s.Bytes, s.Target, s.Created = r.Name, r.ContentType, r.Bytes, r.Target, r.Created
	}
	s.Expires = r.Expires
	s.Complete = s.Complete || r.Last
	s.Parts = max(s.Parts, r.Part+1)
}
