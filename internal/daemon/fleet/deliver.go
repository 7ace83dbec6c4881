package fleet

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/proto"
	"github.com/atls-ws/atls-ws/internal/session"
	"github.com/atls-ws/atls-ws/server"
)

// handledBefore is the text of an ack whose own is lost.
const handledBefore = "handled before; its answer was lost"

// deliver sends what the queue has, in order and without waiting for each
// answer, and returns when all of it has been answered.
func (l *link) deliver(ctx context.Context) error {
	if err := l.enter(ctx); err != nil {
		return err
	}
	if err := l.settle(ctx); err != nil {
		return err
	}
	a := &answers{l: l, sent: make(chan sentSignal, batchSize), through: l.next - 1}
	done := make(chan error, 1)
	go func() { done <- a.collect(ctx) }()
	err := l.sendAll(ctx, a.sent)
	close(a.sent)
	if aerr := <-done; aerr != nil {
		err = aerr
		l.next = a.through + 1 // what follows was not answered, or not noted
	}
	return err
}

func (l *link) sendAll(ctx context.Context, sent chan<- sentSignal) error {
	for {
		all, err := l.fetch(ctx)
		if err != nil || len(all) == 0 {
			return err
		}
		for _, m := range all {
			s := sentSignal{seq: sequence(m), id: m.Header.Get(idHeader), queued: stored(m)}
			sig, err := parseSignal(m)
			switch {
			case err != nil:
				l.f.log.Warn("a message in a queue is no signal", "device", l.device, "seq", s.seq, "err", err)
				s.state, s.text = admin.Dropped, "not a signal: "+err.Error()
			case !time.Now().Before(sig.Expiry):
				s.state = admin.Expired
			case l.fence() != nil:
				return l.fence()
			case !l.sending(s.seq, s.id):
				l.next = s.seq + 1
				continue // canceled or dropped, and noted as such
			default:
				if l.unnumber {
					sig.Seq = 0
				}
				if s.pending, err = l.sess.Send(ctx, sig); err != nil {
					l.answered(s.id)
					return err
				}
			}
			l.next = s.seq + 1
			sent <- s // collect reads until the end
		}
	}
}

// fetch reads the next signals. A replica may not have yet what has rung, the
// leader has.
func (l *link) fetch(ctx context.Context) ([]*nats.Msg, error) {
	select {
	case l.f.fetching <- struct{}{}:
		defer func() { <-l.f.fetching }()
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-l.sess.Done():
		return nil, l.sess.Err()
	}
	subject := signalSubject + "." + l.token
	all, err := l.f.store.fetch(ctx, signalStream, subject, l.next, batchSize)
	if err != nil || len(all) > 0 || l.f.cfg.NATS.Replicas < 2 {
		return all, err
	}
	l.mu.Lock()
	want := l.want
	l.mu.Unlock()
	if want < l.next {
		return nil, nil
	}
	m, err := l.f.store.fromLeader(ctx, signalStream, subject, l.next)
	if err != nil {
		return nil, err
	}
	if m == nil {
		l.next = want + 1 // all up to there had been stored
		return nil, nil
	}
	return []*nats.Msg{m}, nil
}

// fromLeader reads the next message of a subject from the stream's leader; nil
// when there is none.
func (s *store) fromLeader(ctx context.Context, stream, subject string, from uint64) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	request, _ := json.Marshal(map[string]any{"seq": max(from, 1), "next_by_subj": subject})
	// The library would ask any replica, for the stream allows that.
	answer, err := s.nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+stream, request)
	if err != nil {
		return nil, s.unavailable(err)
	}
	var got struct {
		Message struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Header  []byte    `json:"hdrs"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	if err := apiError(answer); err != nil {
		if api := (*jetstream.APIError)(nil); errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeMessageNotFound {
			return nil, nil
		}
		return nil, s.unavailable(err)
	}
	if err := json.Unmarshal(answer.Data, &got); err != nil {
		return nil, fmt.Errorf("answer of JetStream: %w", err)
	}
	raw := got.Message
	m := &nats.Msg{Subject: raw.Subject, Data: raw.Data, Header: nats.Header{}}
	if len(raw.Header) > 0 {
		if m.Header, err = nats.DecodeHeadersMsg(raw.Header); err != nil {
			return nil, fmt.Errorf("answer of JetStream: %w", err)
		}
	}
	m.Header.Set("Nats-Sequence", strconv.FormatUint(raw.Seq, 10))
	m.Header.Set("Nats-Time-Stamp", raw.Time.Format(time.RFC3339Nano))
	return m, nil
}

// sentSignal is a signal that waits for its answer, or has its state already.
type sentSignal struct {
	seq     uint64
	id      string
	queued  time.Time // zero: not known
	pending *session.Pending
	state   string
	text    string
}

// answers collects the answers to what was sent, in order. It stores each at
// once, and purges the queue when it would wait anyway.
type answers struct {
	l       *link
	sent    chan sentSignal
	outs    []storing
	upTo    uint64 // of outs
	through uint64 // stored and purged
}

// storing is an outcome on its way to the disk; without an ack it is yet to go.
type storing struct {
	o     admin.Outcome
	first bool // it is stored only when there is none
	ack   jetstream.PubAckFuture
}

func (a *answers) collect(ctx context.Context) error {
	var failed error
	for s := range a.sent { // to the end: the sender must not be held up
		if failed == nil {
			failed = a.one(ctx, s)
		}
		a.l.answered(s.id)
	}
	if err := a.flush(ctx); failed == nil {
		failed = err
	}
	return failed
}

// one waits for a signal's answer and begins to store it.
func (a *answers) one(ctx context.Context, s sentSignal) error {
	if len(a.outs) >= flushAfter || len(a.outs) > 0 && s.pending != nil && !s.pending.Acked() {
		if err := a.flush(ctx); err != nil {
			return err
		}
	}
	o := admin.Outcome{Signal: s.id, Device: a.l.device, State: s.state, Text: s.text}
	if s.pending != nil {
		text, err := s.pending.Wait(ctx)
		refused, isRefusal := err.(*server.RefusedError) //nolint:errorlint // wrapped, it is why the session ended
		switch {
		case err == nil:
			o.State, o.Text = admin.Acked, text
			if text == session.HandledBefore {
				o.Text = handledBefore
			}
		case !isRefusal:
			return err
		case refused.Code == proto.Closing:
			return err // the device is going, it has not decided
		case refused.Code == proto.Expired:
			o.State, o.Text = admin.Expired, refused.Text
		default:
			o.State, o.Code, o.Text = admin.Refused, refused.Code.String(), refused.Text
		}
	}
	o.Time = time.Now().UTC()
	after := time.Duration(0)
	if !s.queued.IsZero() {
		after = max(0, o.Time.Sub(s.queued))
	}
	a.l.f.cfg.Observe(o.State, after)
	if _, err := parseID(s.id); err == nil {
		// What no device has said must not take the place of what one did say to
		// another node.
		first := s.pending == nil || o.Text == handledBefore
		a.outs = append(a.outs, storing{o, first, a.l.f.store.begin(&o, first)})
	}
	a.upTo = s.seq
	return nil
}

// begin starts to store an outcome; nil when that is not possible now.
func (s *store) begin(o *admin.Outcome, first bool) jetstream.PubAckFuture {
	var opts []jetstream.PublishOpt
	if first { // if there is an outcome after all, that one stays
		opts = append(opts, jetstream.WithExpectLastSequencePerSubject(0))
	}
	ack, _ := s.js.PublishMsgAsync(outcomeMessage(o), opts...)
	return ack
}

// flush waits until the answers are on the disk and takes their signals out of
// the queue: one purge for all. While NATS is away it keeps them.
func (a *answers) flush(ctx context.Context) error {
	pause := retryPause
	for {
		err := a.tryFlush(ctx)
		if err == nil || ctx.Err() != nil || errors.Is(err, errOutrun) {
			return err
		}
		a.l.f.log.Debug("answers are not stored yet", "device", a.l.device, "err", err, "retry_in", pause.String())
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		pause = min(2*pause, retryMost)
	}
}

func (a *answers) tryFlush(ctx context.Context) error {
	if a.upTo == 0 {
		return nil
	}
	for i := range a.outs {
		out := &a.outs[i]
		if out.ack == nil {
			if out.ack = a.l.f.store.begin(&out.o, out.first); out.ack == nil {
				return errNotStored
			}
		}
	}
	var failed error
	for i := range a.outs {
		select {
		case <-a.outs[i].ack.Ok():
		case err := <-a.outs[i].ack.Err():
			if api := (*jetstream.APIError)(nil); errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
				continue // see begin
			}
			a.outs[i].ack = nil
			failed = fmt.Errorf("%w: %w", errNotStored, err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if failed != nil {
		a.outs = slices.DeleteFunc(a.outs, func(s storing) bool { return s.ack != nil })
		return failed
	}
	a.outs = a.outs[:0]
	if err := a.l.fence(); err != nil {
		return err // the queue is the newer session's, which finds what is answered
	}
	if err := a.l.f.store.purge(ctx, a.l.token, a.upTo); err != nil {
		return err
	}
	a.through, a.upTo = a.upTo, 0
	return nil
}

var errNotStored = errors.New("an outcome is not stored")

// purge empties a device's queue up to a sequence.
func (s *store) purge(ctx context.Context, token string, upTo uint64) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	request := fmt.Appendf(nil, `{"filter":%q,"seq":%d}`, signalSubject+"."+token, upTo+1)
	m, err := s.nc.RequestWithContext(ctx, "$JS.API.STREAM.PURGE."+signalStream, request)
	if err != nil {
		return s.unavailable(err)
	}
	return apiError(m)
}

// settleUpTo notes the signals up to seq as acked.
func (l *link) settleUpTo(ctx context.Context, seq uint64) error {
	a := &answers{l: l}
	var failed error
	err := l.f.store.walk(ctx, signalStream, signalSubject+"."+l.token, 1, func(m *nats.Msg) bool {
		s := sentSignal{seq: sequence(m), id: m.Header.Get(idHeader), state: admin.Acked, text: handledBefore}
		if s.seq > seq {
			return false
		}
		if _, failed = hex.DecodeString(s.id); failed == nil {
			failed = a.one(ctx, s)
		}
		return failed == nil
	})
	return errors.Join(failed, err, a.flush(ctx))
}
