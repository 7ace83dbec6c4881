package server

import (
	"context"
	"crypto/tls"
	"errors"
	"sync"

	"github.com/atls-ws/atls-ws/internal/proto"
	"github.com/atls-ws/atls-ws/internal/session"
)

// admit asks Config.Admit.
func (s *Server) admit(device string, state tls.ConnectionState) error {
	if s.cfg.Admit == nil {
		return nil
	}
	return s.cfg.Admit(device, state)
}

// Recheck asks Config.Admit again about every device that is connected, and ends
// the sessions of those that it refuses now, after they were told. It returns how
// many those are, and does not wait for them to go, which takes seconds at most.
// Call it when the decision has changed: a device is denied, a certificate is
// revoked. A device that is being admitted meanwhile is asked about again by
// itself.
func (s *Server) Recheck() (ended int) {
	if s.cfg.Admit == nil {
		return 0
	}
	live, peers := s.connections()
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

// passes asks about a session, and ends it if it is not admitted any more. It has
// been added to live before, so either its own call or Recheck's finds out.
func (s *Server) passes(sess *Session) bool {
	err := s.admit(sess.Device(), sess.ConnectionState())
	if err == nil {
		return true
	}
	s.ended(sess.Device(), err, "session", sess.ID())
	s.spawn(func() { bye(sess, codeOf(err), textOf(err)) })
	return false
}

// passesHTTP is passes for a peer of atls-http/1. Enrollment decides on guests.
func (s *Server) passesHTTP(p *httpPeer) bool {
	if p.guest != nil {
		return true
	}
	err := s.admit(p.device, p.ConnectionState())
	if err == nil {
		return true
	}
	s.ended(p.device, err, "protocol", proto.ALPNHTTP)
	p.Reset()
	return false
}

func (s *Server) ended(device string, err error, attrs ...any) {
	s.cfg.Logger.Warn("session ended: the device is not admitted any more", append([]any{"device", device, "err", err}, attrs...)...)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.Ended++
}

// Disconnect ends the sessions of a device, after it was told the text, and its
// connections of atls-http/1. It returns how many there were. The device comes
// back when it likes; Config.Admit can keep it away. ctx bounds the telling and
// the waiting for it to go.
func (s *Server) Disconnect(ctx context.Context, device, text string) int {
	live, peers := s.connections()
	n := 0
	var ending sync.WaitGroup
	for _, sess := range live {
		if sess.Device() == device {
			n++
			ending.Go(func() { _ = sess.CloseBye(ctx, proto.Closing, text) })
		}
	}
	for _, p := range peers {
		if p.device == device {
			n++
			_ = p.Close()
		}
	}
	ending.Wait()
	return n
}

// connections are what is up.
func (s *Server) connections() (live []*Session, peers []*httpPeer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	live = make([]*Session, 0, len(s.live))
	for sess := range s.live {
		live = append(live, sess)
	}
	for p := range s.httpPeers {
		peers = append(peers, p)
	}
	return live, peers
}

// spawn runs fn in a goroutine that Close waits for, unless Close has begun.
func (s *Server) spawn(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.wg.Go(fn)
	}
}

func codeOf(err error) session.Code {
	var refused *RefusedError
	if errors.As(err, &refused) {
		return refused.Code
	}
	return proto.NotAllowed
}

func textOf(err error) string {
	var refused *RefusedError
	if errors.As(err, &refused) {
		return refused.Text
	}
	return err.Error()
}
