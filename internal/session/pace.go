package session

import (
	"sync"
	"time"
)

// pace is a token bucket: of a second's worth, filled evenly.
type pace struct {
	mu    sync.Mutex
	ahead time.Time // what has been taken is paid for at this time
}

// take takes one of rate a second and says how long to wait for it.
func (p *pace) take(rate int) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.ahead.Before(now) {
		p.ahead = now
	}
	p.ahead = p.ahead.Add(time.Second / time.Duration(rate))
	return max(0, p.ahead.Sub(now)-time.Second)
}

// paceSignal waits until the peer's next signal may be taken. The signals that
// it sends meanwhile wait in the window of its stream, where they cost it memory.
func (s *Session) paceSignal() error {
	if s.cfg.SignalRate <= 0 {
		return nil
	}
	wait := s.paces.get(func() *pace { return new(pace) }).take(s.cfg.SignalRate)
	if wait == 0 {
		return nil
	}
	s.cfg.limited(LimitSignals)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-s.done:
		return s.Err()
	}
}
