package session

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/atls-ws/atls-ws/internal/proto"
)

const (
	// The receiver handles signals one by one while the sender's frames wait in
	// the stream's window. What is not acked stays below it, so that a slow
	// handler never blocks the sender's write.
	unackedTokens   = 192 // of 1 KiB
	signalsIdle     = time.Minute
	ackWriteTimeout = 30 * time.Second
)

var errSignalsEnded = errors.New("signal stream ended")

// signalSender is the sending side of a session's signals: a signal stream,
// opened when first needed and closed when idle.
type signalSender struct {
	turn   chan struct{}                // held to send, so that order is the callers'
	tokens chan struct{}                // taken by what is not acked
	out    atomic.Pointer[signalStream] // set under turn; an ended one is let go of
}

func newSignalSender() *signalSender {
	return &signalSender{turn: make(chan struct{}, 1), tokens: make(chan struct{}, unackedTokens)}
}

func (q *signalSender) release(n int) {
	for range n {
		<-q.tokens
	}
}

// signalStream is an open outbound signal stream: one goroutine writes, one
// reads the acks, and either's end ends it.
type signalStream struct {
	q      *signalSender
	st     *Stream
	frames chan outFrame // holds more than can be unacked, so that adding never waits
	done   chan struct{}

	mu      sync.Mutex
	waiting map[[16]byte]*waiter
	ended   bool
}

type outFrame struct {
	buf     []byte
	written chan struct{} // closed after the write; may be nil
}

// waiter is a signal that is not acked yet. It holds its tokens until then,
// even when its sender has given up.
type waiter struct {
	ack    chan proto.Ack // buffered; closed when none will come
	tokens int
}

// Signal sends a signal and returns the reply of the other end's handler. It
// gives the signal an ID when it has none. A refusal is a *RefusedError. When
// ctx ends first, the signal may still arrive and be handled.
func (s *Session) Signal(ctx context.Context, sig Signal) (reply string, err error) {
	p, err := s.Send(ctx, sig)
	if err != nil {
		return "", err
	}
	return p.Wait(ctx)
}

// Pending is a signal that is sent and not yet acked.
type Pending struct {
	session *Session
	name    string
	w       *waiter
}

// Send is the first half of Signal: it returns when the signal is on its way,
// behind those that were sent before, so that many can be under way in order.
// ctx bounds the waiting for room.
func (s *Session) Send(ctx context.Context, sig Signal) (*Pending, error) {
	if sig.ID == ([16]byte{}) {
		_, _ = rand.Read(sig.ID[:]) // never fails
	}
	if err := sig.Check(); err != nil {
		return nil, err
	}
	w := &waiter{ack: make(chan proto.Ack, 1), tokens: 1 + len(sig.Data)>>10}
	if _, err := s.send(ctx, outFrame{buf: proto.AppendSignal(nil, &sig)}, sig.ID, w); err != nil {
		return nil, fmt.Errorf("signal %s: %w", sig.Name, err)
	}
	return &Pending{s, sig.Name, w}, nil
}

// Acked says whether Wait would return the answer at once.
func (p *Pending) Acked() bool { return len(p.w.ack) > 0 }

// Wait is the second half of Signal, to be called once.
func (p *Pending) Wait(ctx context.Context) (reply string, err error) {
	select {
	case a, ok := <-p.w.ack:
		if !ok {
			err := p.session.Err()
			if err == nil {
				err = errSignalsEnded
			}
			return "", fmt.Errorf("signal %s: no ack: %w", p.name, err)
		}
		if a.Code != proto.OK {
			return "", &RefusedError{Code: a.Code, Text: a.Text}
		}
		return a.Text, nil
	case <-ctx.Done():
		return "", fmt.Errorf("signal %s: no ack yet: %w", p.name, ctx.Err())
	}
}

// Drain asks the other end to reconnect, after a while plus a random part of
// spread. The session stays up. ctx bounds the sending.
func (s *Session) Drain(ctx context.Context, after, spread time.Duration) error {
	return s.tell(ctx, proto.AppendDrain(nil, proto.Drain{After: after, Spread: spread}))
}

// tell sends a frame that no ack answers and waits until it is written.
func (s *Session) tell(ctx context.Context, buf []byte) error {
	f := outFrame{buf, make(chan struct{})}
	out, err := s.send(ctx, f, [16]byte{}, nil)
	if err != nil {
		return err
	}
	select {
	case <-f.written:
		return nil
	case <-out.done:
		return errSignalsEnded
	case <-ctx.Done():
		return ctx.Err()
	}
}

// send waits for its turn and for tokens, and hands the frame to the signal
// stream's writer. It opens the stream when there is none.
func (s *Session) send(ctx context.Context, f outFrame, id [16]byte, w *waiter) (*signalStream, error) {
	q := s.signals.get(newSignalSender)
	select {
	case q.turn <- struct{}{}:
		defer func() { <-q.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.done:
		return nil, s.Err()
	}
	taken := 0
	for w != nil && taken < w.tokens {
		select {
		case q.tokens <- struct{}{}:
			taken++
		case <-ctx.Done():
			q.release(taken)
			return nil, ctx.Err()
		case <-s.done:
			q.release(taken)
			return nil, s.Err()
		}
	}
	for {
		out := q.out.Load()
		if out == nil {
			var err error
			if out, err = s.openSignals(ctx, q); err != nil {
				q.release(taken)
				return nil, err
			}
		}
		err := out.add(f, id, w)
		if err == nil {
			return out, nil
		}
		if !errors.Is(err, errSignalsEnded) {
			q.release(taken)
			return nil, err
		}
		q.out.CompareAndSwap(out, nil) // it took nothing: a new stream will
	}
}

// openSignals opens the signal stream; the caller has the turn.
func (s *Session) openSignals(ctx context.Context, q *signalSender) (*signalStream, error) {
	st, err := s.dial(ctx, proto.ServiceSignals)
	if err != nil {
		return nil, err
	}
	out := &signalStream{
		q: q, st: st, frames: make(chan outFrame, unackedTokens+8),
		done: make(chan struct{}), waiting: map[[16]byte]*waiter{},
	}
	s.frames.hurry(st.ys.StreamID())
	q.out.Store(out)
	if !s.spawn(out.write) {
		s.frames.forget(st.ys.StreamID())
		_ = st.Close()
		return nil, s.Err()
	}
	// When the session has just ended, the writer ends what nobody reads.
	s.spawn(out.readAcks)
	return out, nil
}

// add registers a signal and queues its frame, or none of the two.
func (o *signalStream) add(f outFrame, id [16]byte, w *waiter) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended {
		return errSignalsEnded
	}
	if w != nil {
		if _, ok := o.waiting[id]; ok {
			return fmt.Errorf("a signal with id %x waits for its ack already", id)
		}
	}
	select {
	case o.frames <- f:
	default:
		return errors.New("too many frames wait to be sent")
	}
	if w != nil {
		o.waiting[id] = w
	}
	return nil
}

// end closes the stream and tells those who wait.
func (o *signalStream) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.endLocked()
}

func (o *signalStream) endLocked() {
	if o.ended {
		return
	}
	o.ended = true
	o.q.out.CompareAndSwap(o, nil)
	close(o.done)
	for id, w := range o.waiting {
		delete(o.waiting, id)
		close(w.ack)
		o.q.release(w.tokens)
	}
}

func (o *signalStream) write() {
	defer func() {
		o.st.session.frames.forget(o.st.ys.StreamID())
		_ = o.st.Close()
	}()
	defer o.end()
	idle := time.NewTimer(signalsIdle)
	defer idle.Stop()
	for {
		select {
		case f := <-o.frames:
			if _, err := o.st.Write(f.buf); err != nil {
				return
			}
			if f.written != nil {
				close(f.written)
			}
			idle.Reset(signalsIdle)
		case <-idle.C:
			o.mu.Lock()
			if len(o.waiting) == 0 && len(o.frames) == 0 {
				o.endLocked()
			}
			o.mu.Unlock()
			idle.Reset(signalsIdle)
		case <-o.done:
			return
		case <-o.st.session.done:
			return
		}
	}
}

func (o *signalStream) readAcks() {
	defer o.end()
	for {
		typ, body, err := proto.ReadFrame(o.st)
		if err != nil {
			return
		}
		if typ != proto.FrameAck {
			continue
		}
		a, err := proto.ParseAck(body)
		if err != nil {
			o.st.session.log().Warn("bad ack", "err", err)
			return
		}
		o.mu.Lock()
		w := o.waiting[a.ID]
		delete(o.waiting, a.ID)
		o.mu.Unlock()
		if w != nil {
			o.q.release(w.tokens)
			w.ack <- a
		}
	}
}
