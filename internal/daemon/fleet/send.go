package fleet

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/proto"
	"github.com/atls-ws/atls-ws/server"
)

const (
	partSize = 500 // devices of a send record
	dropTry  = 16  // rounds of making room in a queue that others fill
)

// Request is a signal and whom it is for.
type Request struct {
	Target Target
	// ID of the signal; nil makes one. An id that was sent before is not queued
	// twice for a device, whatever became of it.
	ID          *[16]byte
	Fresh       bool // the ID was made for this request: nothing need be looked up
	Name        string
	ContentType string
	Data        []byte
	TTL         time.Duration // 0, or longer than Config.MaxAge: that
}

// Send stores a signal in the queues of its devices. each is called for every
// device: queued, when that is on the disk; or with what became of it, when it
// was sent before; or failed. The signal's id comes even beside an error: some
// devices may have it then.
func (f *Fleet) Send(ctx context.Context, r *Request, each func(admin.Outcome)) (id string, err error) {
	s := &sending{f: f, each: each, target: r.Target, known: map[string]admin.Outcome{}, looks: r.ID != nil && !r.Fresh}
	s.sig = server.Signal{Name: r.Name, ContentType: r.ContentType, Data: r.Data, Expiry: time.Now().Add(f.cfg.MaxAge)}
	if r.TTL > 0 && r.TTL < f.cfg.MaxAge {
		s.sig.Expiry = time.Now().Add(r.TTL)
	}
	if r.ID != nil {
		s.sig.ID = *r.ID
	} else {
		_, _ = rand.Read(s.sig.ID[:]) // never fails
	}
	s.id = hex.EncodeToString(s.sig.ID[:])
	if err := s.sig.Check(); err != nil {
		return s.id, &RequestError{err}
	}
	if err := f.store.room(); err != nil {
		return s.id, err
	}
	if r.Target.Device == "" {
		select {
		case f.fanning <- struct{}{}:
			defer func() { <-f.fanning }()
		case <-ctx.Done():
			return s.id, ctx.Err()
		}
	}
	if s.looks {
		if err := s.lookUp(ctx); err != nil {
			return s.id, err
		}
	}
	err = f.targets(ctx, r.Target, func(device string) error {
		s.devices = append(s.devices, device)
		if len(s.devices) < partSize {
			return nil
		}
		return s.part(ctx, false)
	})
	if err != nil {
		return s.id, err
	}
	return s.id, s.part(ctx, true)
}

// RequestError says that a request makes no sense.
type RequestError struct{ Err error }

// Error gives the reason.
func (e *RequestError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *RequestError) Unwrap() error { return e.Err }

// sending is one Send.
type sending struct {
	f       *Fleet
	sig     server.Signal
	id      string
	target  Target
	each    func(admin.Outcome)
	looks   bool                     // the id may have been sent before
	known   map[string]admin.Outcome // and what is known of it then
	parts   int
	devices []string // of the part that is being collected
}

// lookUp finds what an earlier send of the same id did.
func (s *sending) lookUp(ctx context.Context) error {
	before, err := s.f.Show(ctx, s.id)
	if errors.Is(err, ErrUnknown) {
		return nil
	} else if err != nil {
		return err
	}
	if before.Name != "" && before.Name != s.sig.Name {
		return &RequestError{fmt.Errorf("the id %s is that of a signal %q: give this one an id of its own", s.id, before.Name)}
	}
	s.parts = before.Parts
	for _, o := range before.Outcomes {
		if o.State != admin.Failed {
			s.known[o.Device] = o
		}
	}
	return nil
}

// part stores the signal for the collected devices, side by side, and then who
// they are.
func (s *sending) part(ctx context.Context, last bool) error {
	record := sendRecord{ID: s.id, Name: s.sig.Name, ContentType: s.sig.ContentType, Bytes: len(s.sig.Data), Target: s.target.String(),
		Created: time.Now().UTC(), Expires: s.sig.Expiry.UTC(), Part: s.parts, Last: last}
	var out []admin.Outcome
	var failed error
	acks := make([]jetstream.PubAckFuture, len(s.devices))
	for i, device := range s.devices {
		o, known := s.known[device]
		if !known && s.looks {
			var err error
			if known, err = s.inQueue(ctx, device); err != nil {
				return err
			}
			o = s.outcome(device, admin.Queued, "")
		}
		if known {
			out = append(out, o)
			continue
		}
		var err error
		if acks[i], err = s.f.store.js.PublishMsgAsync(signalMessage(device, &s.sig)); err != nil {
			failed = s.f.store.unavailable(err)
			break
		}
	}
	for i, device := range s.devices {
		if acks[i] == nil {
			continue
		}
		err := s.stored(ctx, device, acks[i])
		if full := (*FullError)(nil); errors.As(err, &full) {
			s.f.cfg.Observe(admin.Failed, 0)
			out = append(out, s.outcome(device, admin.Failed, err.Error()))
			if record.Failed == nil {
				record.Failed = map[string]string{}
			}
			record.Failed[device] = err.Error()
			continue
		} else if err != nil {
			failed = err
			continue
		}
		s.f.cfg.Observe(admin.Queued, 0)
		record.Devices = append(record.Devices, device)
		out = append(out, s.outcome(device, admin.Queued, ""))
	}
	s.devices = s.devices[:0]
	if len(record.Devices)+len(record.Failed) > 0 || last && s.parts == 0 {
		m := nats.NewMsg(sendSubject + "." + s.id + "." + strconv.Itoa(s.parts))
		m.Data, _ = json.Marshal(record)
		if err := s.f.store.publish(ctx, m); err != nil {
			return errors.Join(failed, err)
		}
		s.parts++
	}
	for _, o := range out {
		s.each(o)
	}
	return failed
}

func (s *sending) outcome(device, state, text string) admin.Outcome {
	return admin.Outcome{Signal: s.id, Device: device, State: state, Text: text, Time: time.Now().UTC()}
}

// inQueue says whether the device's queue has the signal already: an earlier
// send may have ended before it could note it.
func (s *sending) inQueue(ctx context.Context, device string) (found bool, err error) {
	err = s.f.store.walk(ctx, signalStream, signalSubject+"."+token(device), 1, func(m *nats.Msg) bool {
		found = m.Header.Get(idHeader) == s.id
		return !found
	})
	return found, err
}

// FullError says that a queue takes no more.
type FullError struct{ Err error }

// Error gives the reason.
func (e *FullError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *FullError) Unwrap() error { return e.Err }

// stored waits until a signal is on the disk. When the device's queue is full,
// it makes room or says so.
func (s *sending) stored(ctx context.Context, device string, ack jetstream.PubAckFuture) error {
	for range dropTry {
		var err error
		select {
		case <-ack.Ok():
			return nil
		case err = <-ack.Err():
		case <-ctx.Done():
			return ctx.Err()
		}
		switch {
		case isFull(err, "bytes"):
			return &FullError{fmt.Errorf("all queues together hold %d MiB, the limit", s.f.cfg.MaxBytes>>20)}
		case !isFull(err, "per subject"):
			return s.f.store.unavailable(err)
		case !s.f.cfg.DropOldest:
			return &FullError{fmt.Errorf("the queue of %s is full: %d signals wait", device, s.f.cfg.PerDevice)}
		}
		if err := s.f.dropOldest(ctx, device); err != nil {
			return err
		}
		if ack, err = s.f.store.js.PublishMsgAsync(signalMessage(device, &s.sig)); err != nil {
			return s.f.store.unavailable(err)
		}
	}
	return &FullError{fmt.Errorf("the queue of %s is full: others fill it as fast", device)}
}

// isFull tells JetStream's refusals apart; they share a code.
func isFull(err error, what string) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && strings.Contains(api.Description, "maximum") && strings.Contains(api.Description, what)
}

// dropOldest removes the first signal of a queue that is not on its way to the
// device, after it has noted that it does.
func (f *Fleet) dropOldest(ctx context.Context, device string) error {
	from := uint64(1)
	r, online, err := f.holder(ctx, device, 0)
	if err != nil {
		return err
	}
	if online {
		from = r.Sent + 1
	}
	all, err := f.store.fetch(ctx, signalStream, signalSubject+"."+token(device), from, 2)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return &FullError{fmt.Errorf("the queue of %s is full: the device has all of it and has not answered", device)}
	}
	m := all[0]
	if r, online, err = f.holder(ctx, device, sequence(m)); err != nil || online && !r.Taken {
		return err // just sent: look again
	}
	o := admin.Outcome{Signal: m.Header.Get(idHeader), Device: device, State: admin.Dropped, Text: "the queue was full", Time: time.Now().UTC()}
	return f.remove(ctx, m, &o)
}

// remove takes a signal out of a queue, after its outcome has been stored.
func (f *Fleet) remove(ctx context.Context, m *nats.Msg, o *admin.Outcome) error {
	f.cfg.Observe(o.State, max(0, time.Since(stored(m))))
	if err := f.store.publish(ctx, outcomeMessage(o)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	st, err := f.store.js.Stream(ctx, signalStream)
	if err == nil {
		if err = st.DeleteMsg(ctx, sequence(m)); errors.Is(err, jetstream.ErrMsgNotFound) {
			err = nil
		}
	}
	if err != nil {
		return f.store.unavailable(err)
	}
	return nil
}

// publish stores one message.
func (s *store) publish(ctx context.Context, m *nats.Msg) error {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	if _, err := s.js.PublishMsg(ctx, m); err != nil {
		return s.unavailable(err)
	}
	return nil
}

// CheckDevice says whether id can be a device's.
func CheckDevice(id string) error {
	if err := proto.CheckName(id); err != nil {
		return &RequestError{fmt.Errorf("device: %w", err)}
	}
	return nil
}
