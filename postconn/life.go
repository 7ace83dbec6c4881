package postconn

import (
	"fmt"
	"io"
	"time"
)

// finishLocked ends the connection in good order: the other end has closed, or
// has been told all.
func (s *served) finishLocked() {
	if s.gone {
		return
	}
	s.inEnd = true
	s.gone = true
	s.timer.Stop()
	s.grave = &head{offset: s.sent, ack: s.in.end(), fin: true}
	s.h.bury(s, s.grave)
	s.cond.Broadcast()
}

// kill ends the connection in no good order.
func (s *served) kill(why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.killLocked(why)
}

func (s *served) killLocked(why string) {
	if s.gone {
		return
	}
	s.gone = true
	s.timer.Stop()
	s.h.bury(s, nil)
	s.failLocked(fmt.Errorf("%s: %w", why, io.ErrUnexpectedEOF))
}

// endLocked is when the connection dies as things are.
func (s *served) endLocked() (end time.Time, why string, ok bool) {
	switch {
	case s.closed:
		end, why, ok = s.closedAt.Add(idleTimeout), "closed", true
		if !s.ready && s.created.Add(readyTimeout).Before(end) {
			end = s.created.Add(readyTimeout)
		}
	case !s.ready:
		end, why, ok = s.created.Add(readyTimeout), fmt.Sprintf("no session within %s", readyTimeout), true
	case s.requests == 0:
		end, why, ok = s.last.Add(idleTimeout), fmt.Sprintf("no request for %s", idleTimeout), true
	}
	return end, why, ok
}

func (s *served) armLocked() {
	if s.gone {
		return
	}
	if end, _, ok := s.endLocked(); ok {
		s.timer.Reset(time.Until(end))
	} else {
		s.timer.Stop()
	}
}

func (s *served) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch end, why, ok := s.endLocked(); {
	case !ok || s.gone:
	case time.Now().Before(end):
		s.armLocked()
	default:
		s.killLocked(why)
	}
}

func (s *served) established() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready = true
	if s.last.IsZero() {
		s.last = time.Now()
	}
	s.armLocked()
	s.cond.Broadcast()
}

func (s *served) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cond.Broadcast()
}

func (s *served) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeLocked()
	s.closedAt = time.Now()
	s.armLocked()
	end := s.closedAt.Add(closeTimeout)
	timer := time.AfterFunc(closeTimeout, s.wake)
	defer timer.Stop()
	for !s.gone && s.requests > 0 && time.Now().Before(end) {
		s.cond.Wait()
	}
	return nil
}
