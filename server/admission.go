package server

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"
)

const (
	retryAfter   = 5 * time.Second // and a random part of retrySpread: a storm must not come again as one
	retrySpread  = 10 * time.Second
	turnsPerCore = 2
	underWay     = 64                     // handshakes for each core: what it does in a fifth of a second
	inLine       = 4096                   // that wait for each core: more than it does while they have patience
	standsStill  = 200 * time.Millisecond // a handshake that waits longer makes room for another
)

// takes says whether the server is not stopping, or answers the request.
func (s *Server) takes(w http.ResponseWriter) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		stopping(w)
	}
	return !s.closed
}

func stopping(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "1") // whoever takes over does not wait for us
	http.Error(w, "atls-ws: this server is stopping", http.StatusServiceUnavailable)
}

// enter admits a request to the costly part, or answers it.
func (s *Server) enter(w http.ResponseWriter) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		s.counts.Draining++
		stopping(w)
		return false
	case s.halfOpen >= s.cfg.Limits.HalfOpen:
		s.counts.FullHalfOpen++
		unavailable(w)
		return false
	case len(s.live)+len(s.httpPeers) >= s.cfg.Limits.Sessions:
		s.counts.FullSessions++
		unavailable(w)
		return false
	}
	s.halfOpen++
	s.wg.Add(1)
	return true
}

func (s *Server) leave() {
	s.mu.Lock()
	s.halfOpen--
	s.mu.Unlock()
	s.wg.Done()
}

func unavailable(w http.ResponseWriter) {
	after := retryAfter + rand.N(retrySpread)
	w.Header().Set("Retry-After", fmt.Sprint(int(after.Seconds())))
	http.Error(w, "atls-ws: no room for a further session now", http.StatusServiceUnavailable)
}

// errLate says that a connection had no turn in time.
var errLate = errors.New("no turn for the handshake in time")

// queue waits for the first turn of a handshake, while the device waits too and
// for a quarter of the time that it has. It returns nil when there was none.
func (s *Server) queue(ctx context.Context) *turn {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Limits.ReadyTimeout/4)
	defer cancel()
	if turn := s.turns.Begin(ctx); turn != nil {
		return turn
	}
	s.mu.Lock()
	s.counts.LateTurns++
	s.mu.Unlock()
	return nil
}

// pause is between two tries to accept, when there are too many connections.
func pause(ctx context.Context) {
	timer := time.NewTimer(100 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
