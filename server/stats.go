package server

import "github.com/atls-ws/atls-ws/internal/session"

// Stats are numbers of a moment, and counts since New.
type Stats struct {
	HalfOpen  int // connections that are not ready yet
	Sessions  int // live, probes and those that end included
	HTTPPeers int // live connections of atls-http/1

	// Requests that were answered 503, by the limit that was reached.
	FullHalfOpen, FullSessions uint64
	// FullStreams and FullUnread are streams that were refused, SlowedSignals those
	// that had to wait, because the device was at its limit. FullWaiting
	// are connections that were refused because their service does not accept
	// those before them.
	FullStreams, FullUnread, FullWaiting, SlowedSignals uint64
	// LateTurns are connections for whose handshake there was no turn in time.
	LateTurns uint64
	// Draining are those that were answered 503 since Shutdown.
	Draining uint64
	// Ended are sessions of devices that Config.Admit did not admit any more.
	Ended uint64
}

// Stats returns the server's numbers.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.counts
	now.HalfOpen, now.Sessions, now.HTTPPeers = s.halfOpen, len(s.live), len(s.httpPeers)
	return now
}

// limited counts what a session met.
func (s *Server) limited(l session.Limit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch l {
	case session.LimitStreams:
		s.counts.FullStreams++
	case session.LimitUnread:
		s.counts.FullUnread++
	case session.LimitWaiting:
		s.counts.FullWaiting++
	case session.LimitSignals:
		s.counts.SlowedSignals++
	}
}

// Limits are those in force.
func (s *Server) Limits() Limits { return s.cfg.Limits }
