package session

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/atls-ws/atls-ws/internal/proto"
)

// HandledBefore is the text of the ack of a queued signal that came again.
const HandledBefore = "handled before"

// inboundSignals is how many signal streams a peer may have open.
const inboundSignals = 4

// serveSignals reads the peer's signals, hands each to its handler and acks it.
func (s *Session) serveSignals(st *Stream) {
	defer func() { _ = st.Close() }()
	defer s.nsignal.Add(-1)
	if s.nsignal.Add(1) > inboundSignals {
		a := proto.Answer{Code: proto.Busy, Text: "too many signal streams"}
		s.logRefusal(st.service, a)
		_ = proto.WriteAnswer(st, a)
		return
	}
	if err := proto.WriteAnswer(st, proto.Answer{}); err != nil {
		return
	}
	_ = st.SetDeadline(time.Time{})
	defer s.frames.forget(st.ys.StreamID())
	for first := true; ; first = false {
		typ, body, err := proto.ReadFrame(st)
		if err != nil {
			if errors.Is(err, proto.ErrTooLarge) {
				s.log().Warn("signal stream ended", "err", err)
			}
			return
		}
		if first {
			s.frames.hurry(st.ys.StreamID())
		}
		if err := s.serveFrame(st, typ, body); err != nil {
			if s.Err() == nil {
				s.log().Warn("signal stream ended", "err", err)
			}
			return
		}
	}
}

func (s *Session) serveFrame(st *Stream, typ byte, body []byte) error {
	switch typ {
	case proto.FrameSignal:
		sig, err := proto.ParseSignal(body)
		if err != nil {
			return err
		}
		if err := s.paceSignal(); err != nil {
			return err
		}
		ack := s.handleOnce(&sig)
		_ = st.SetWriteDeadline(time.Now().Add(ackWriteTimeout))
		_, err = st.Write(proto.AppendAck(nil, &ack))
		return err
	case proto.FrameDrain:
		d, err := proto.ParseDrain(body)
		if err != nil {
			return err
		}
		s.mu.Lock()
		if s.drain == nil {
			close(s.drainedLocked())
		}
		s.drain = &d
		s.mu.Unlock()
	case proto.FrameBye:
		bye, err := proto.ParseBye(body)
		if err != nil {
			return err
		}
		err = &RefusedError{Code: bye.Code, Text: bye.Text}
		if bye.Code == proto.Replaced {
			err = ErrReplaced
		}
		s.fail(fmt.Errorf("%w: %w", ErrPeerGone, err))
	}
	return nil // an unknown frame is of a newer version: skipped
}

// handleOnce is handle, but for a queued signal that was handled before.
func (s *Session) handleOnce(sig *Signal) proto.Ack {
	if s.cfg.Applied == nil || sig.Seq == 0 || s.ready.Queue == "" {
		return s.handle(sig)
	}
	p := Position{Queue: s.ready.Queue, Seq: sig.Seq}
	ack, again := s.cfg.Applied.once(s.ctx, p, s.cfg.Logger, func() proto.Ack { return s.handle(sig) })
	if again {
		ack.Text = HandledBefore
	}
	ack.ID = sig.ID
	return ack
}

// handle runs the signal's handler and makes its ack.
func (s *Session) handle(sig *Signal) (ack proto.Ack) {
	ack.ID = sig.ID
	ctx := s.ctx
	if !sig.Expiry.IsZero() {
		if !time.Now().Before(sig.Expiry) {
			ack.Code, ack.Text = proto.Expired, "expired "+sig.Expiry.UTC().Format(time.RFC3339)
			return ack
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, sig.Expiry)
		defer cancel()
	}
	h := s.cfg.Mux.handler(sig.Name)
	if h == nil {
		ack.Code, ack.Text = proto.NotFound, "no handler for signal "+sig.Name
		return ack
	}
	defer func() {
		if p := recover(); p != nil {
			s.log().Error("signal handler panicked", "signal", sig.Name, "panic", p)
			ack.Code, ack.Text = proto.Refused, "the handler failed"
		}
	}()
	reply, err := h(ctx, *sig)
	if err == nil {
		ack.Text = reply
		return ack
	}
	ack.Code, ack.Text = proto.Refused, err.Error()
	var r *RefusedError
	if errors.As(err, &r) && r.Code != proto.OK {
		ack.Code, ack.Text = r.Code, r.Text
	}
	return ack
}
