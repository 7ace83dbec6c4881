package server

import (
	"crypto/tls"
	"maps"
	"slices"

	"github.com/atls-ws/atls-ws/internal/proto"
)

// Check decides on the device of a session that is up, by its verified inner
// certificate: an error ends the session, and the device is told its text.
type Check func(device string, cs tls.ConnectionState) error

// Enforce makes check hold for every session from now on, instead of the one
// before, and ends the live ones that do not pass it: for a certificate that
// has been revoked, a device that is not welcome any more. It returns how many
// those are, and does not wait for their end, which takes a few seconds at most.
// What is not ready yet is held to check as soon as it is. nil checks nothing.
func (s *Server) Enforce(check Check) (ended int) {
	s.mu.Lock()
	s.check = check
	live := slices.Collect(maps.Keys(s.live))
	peers := slices.Collect(maps.Keys(s.httpPeers))
	s.mu.Unlock()
	for _, sess := range live {
		if !s.passes(sess) {
			ended++
		}
	}
	for _, p := range peers {
		if !s.passesHTTP(p) {
			ended++
		}
	}
	return ended
}

// passes holds a session to the check. It has been added to live before, so
// either this or Enforce sees it with the newest check.
func (s *Server) passes(sess *Session) bool {
	err := s.checked(sess.Device(), sess.ConnectionState())
	if err == nil {
		return true
	}
	s.cfg.Logger.Warn("session ended", "device", sess.Device(), "session", sess.ID(), "err", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.Ended++
	if _, up := s.live[sess]; up { // and so Close has not waited yet
		s.wg.Go(func() { bye(sess, proto.NotAllowed, err.Error()) })
	}
	return false
}

func (s *Server) passesHTTP(p *httpPeer) bool {
	err := s.checked(p.device, p.ConnectionState())
	if err == nil {
		return true
	}
	s.cfg.Logger.Warn("connection ended", "device", p.device, "err", err)
	s.mu.Lock()
	s.counts.Ended++
	s.mu.Unlock()
	p.Reset()
	return false
}

func (s *Server) checked(device string, cs tls.ConnectionState) error {
	s.mu.Lock()
	check := s.check
	s.mu.Unlock()
	if check == nil {
		return nil
	}
	return check(device, cs)
}

// SetAnchors replaces the sets of Config.Anchors. Devices that have connected
// before there were any have not said what they met, and are told so.
func (s *Server) SetAnchors(sets []AnchorSet) error {
	all, err := newAnchors(sets)
	if err != nil {
		return err
	}
	if s.hosted == nil && len(all) > 0 {
		return errNoHost
	}
	s.anchors.Store(&all)
	return nil
}
