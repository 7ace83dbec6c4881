package session

import (
	"fmt"
	"time"
)

// Probe asks the peer for a sign of life now, and ends the session with ErrDead
// when nothing arrives from it within d. It does not wait. It is for an owner
// who has reason for doubt: the machine was asleep, or its network is another.
// Without it a silent peer is found out after three intervals of pings.
func (s *Session) Probe(d time.Duration) {
	silent := s.frames.silent()
	asked := time.Now()
	s.frames.ping(0)
	s.spawn(func() {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-s.done:
			return
		case <-timer.C:
		}
		if since := time.Since(asked); s.frames.silent() > since {
			s.fail(fmt.Errorf("%w: %s", ErrDead, (silent + since).Round(time.Second)))
		}
	})
}
