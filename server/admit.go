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

// Recheck asks Config.Admit again about every device that is connected, and
// ends the sessions of those that it refuses now, after they were told. It does
// not wait for them to go. Call it when the decision has changed; a device that
// is being admitted meanwhile is asked about again by itself.
func (s *Server) Recheck() {
	if s.cfg.Admit == nil {
		return
	}
	live, peers := s.connections()
	for _, sess := range live {
		s.recheck(sess)
	}
	for _, p := range peers {
		s.recheckHTTP(p)
	}
}

func (s *Server) recheck(sess *Session) {
	if err := s.admit(sess.Device(), sess.ConnectionState()); err != nil {
		s.spawn(func() { bye(sess, codeOf(err), textOf(err)) })
	}
}

func (s *Server) recheckHTTP(p *httpPeer) {
	if p.guest == nil && s.admit(p.device, p.ConnectionState()) != nil { // enrollment asks about guests
		s.spawn(func() { _ = p.Close() })
	}
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
