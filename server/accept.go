package server

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/atls-ws/atls-ws/internal/proto"
	"github.com/atls-ws/atls-ws/internal/session"
)

const (
	byeTimeout   = 2 * time.Second // to tell a session why it is closed
	probeTimeout = 30 * time.Second
	postReady    = 3 // times ReadyTimeout: a flight takes a request, and a box may hold each back
)

// serve makes of a carrier, whose first request was r, what the peer wants it to
// be. It is called in the handshake's turn, which has ended when hooks and services are.
func (s *Server) serve(conn net.Conn, r *http.Request, turn *turn, bound time.Duration) (ready bool) {
	sess, peer, err := s.greet(conn, r, turn, bound)
	switch {
	case err != nil:
		s.refused(r.RemoteAddr, err)
		return false
	case peer != nil:
		return s.adoptHTTP(peer, r.RemoteAddr)
	}
	return s.adopt(sess, r.RemoteAddr)
}

// greet does the inner handshake: it returns a session or a peer of atls-http/1.
// The turn ends with it, also when what decides panics.
func (s *Server) greet(conn net.Conn, r *http.Request, turn *turn, bound time.Duration) (sess *Session, peer *httpPeer, err error) {
	defer turn.Leave()
	defer turn.Give()
	ctx, cancel := context.WithTimeoutCause(s.ctx, bound, fmt.Errorf("not ready within %s", bound))
	defer cancel()
	in, err := s.acceptor.Accept(ctx, conn, turn)
	if err != nil {
		return nil, nil, err
	}
	var guest *guest
	in.Admit = func(cs tls.ConnectionState, hello *Hello) (device string, err error) {
		defer turn.Aside()() // what decides may ask others
		markIntercepted(hello.Outer, r.TLS)
		if len(*s.anchors.Load()) == 0 && hello.Outer != nil {
			hello.Outer = hello.Outer.WithoutDER() // nothing will be chosen by it
		}
		if guest, err = s.guest(cs); err != nil || guest != nil {
			return fmt.Sprint(guest), err
		}
		return s.identify(ctx, cs, hello)
	}
	if in.IsHTTP() {
		if peer, err = newHTTPPeer(ctx, in); err != nil {
			return nil, nil, err
		}
		peer.guest = guest
		return nil, peer, nil
	}
	sess, err = in.Session(ctx)
	return sess, nil, err
}

// identify names the device of a verified certificate and admits it.
func (s *Server) identify(ctx context.Context, cs tls.ConnectionState, hello *Hello) (device string, err error) {
	device, err = s.cfg.Identify(cs)
	if err == nil {
		err = proto.CheckName(device)
	}
	if err != nil {
		return "", fmt.Errorf("device id: %w", err)
	}
	if err := s.admit(device, cs); err != nil {
		return "", err
	}
	if !hello.Probe {
		s.putKey(ctx, cs, device) // before the device can use it
	}
	return device, nil
}

func (s *Server) refused(remote string, err error) {
	s.cfg.Logger.Warn("connection refused", "remote", remote, "err", err)
	if s.cfg.Hooks.Refused != nil {
		s.cfg.Hooks.Refused(remote, err)
	}
}

// refusedRequest tells of a POST request. At Debug: it costs a stranger nothing.
func (s *Server) refusedRequest(r *http.Request, status int, why string) {
	s.cfg.Logger.Debug("request refused", "remote", r.RemoteAddr, "status", status, "why", why)
	if s.cfg.Hooks.RefusedRequest != nil {
		s.cfg.Hooks.RefusedRequest(r.RemoteAddr, status)
	}
}

// markIntercepted compares the exporter that the device saw with that of the
// outer connection which ended here. Behind a terminator there is none.
func markIntercepted(r *OuterReport, outer *tls.ConnectionState) {
	if r == nil {
		return
	}
	theirs := r.Exporter
	r.Intercepted, r.Compared, r.Exporter = false, false, nil // nobody needs the value any more
	if outer == nil || len(theirs) == 0 {
		return
	}
	ours, err := outer.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
	r.Compared = true
	r.Intercepted = err != nil || subtle.ConstantTimeCompare(ours, theirs) != 1
}

// adopt makes a ready session the device's and follows it to its end.
func (s *Server) adopt(sess *Session, remote string) bool {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		_ = sess.Close()
		return false
	}
	s.live[sess] = struct{}{}
	s.wg.Add(1)
	s.mu.Unlock()
	known := false
	defer func() { // also when a hook or a check panics
		if known {
			sess.OnDone(func() { s.disconnected(sess) })
		} else {
			go s.endProbe(sess)
		}
	}()

	log := func() *slog.Logger { return s.cfg.Logger.With("device", sess.Device(), "session", sess.ID()) }
	attrs := []any{"remote", remote, "software", sess.Hello().Software}
	if o := sess.Hello().Outer; o != nil {
		attrs = append(attrs, "outer_verified", o.Verified, "intercepted", o.Intercepted)
		if len(o.Chain) > 0 {
			attrs = append(attrs, "outer_issuer", o.Chain[0].Issuer)
		}
	}
	if sess.Hello().Probe {
		log().Info("device probes the path", attrs...)
		return true
	}
	log().Info("device connected", attrs...)
	known = true
	old := s.registry.put(sess)
	if s.cfg.Hooks.Connected != nil {
		s.cfg.Hooks.Connected(sess)
	}
	for _, o := range old {
		log().Info("newer session of the device replaces the old", "old", o.ID())
		s.wg.Go(func() { bye(o, proto.Replaced, "a newer session of this device took over") })
	}
	s.passes(sess) // the decision may have changed before it was among the live
	return true
}

// disconnected takes leave of a device's session that has ended.
func (s *Server) disconnected(sess *Session) {
	defer s.wg.Done()
	s.registry.remove(sess) // before Close, which waits for signal handlers
	_ = sess.Close()
	s.mu.Lock()
	delete(s.live, sess)
	s.mu.Unlock()
	s.cfg.Logger.Info("device disconnected", "device", sess.Device(), "session", sess.ID(), "err", sess.Err(), "after", time.Since(sess.Opened()).Round(time.Millisecond).String())
	if s.cfg.Hooks.Disconnected != nil {
		s.cfg.Hooks.Disconnected(sess, sess.Err())
	}
}

// adoptHTTP hands a connection of atls-http/1 to the service http and follows it
// to its end.
func (s *Server) adoptHTTP(p *httpPeer, remote string) bool {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		_ = p.Close()
		return false
	}
	s.httpPeers[p] = struct{}{}
	s.wg.Add(1)
	s.mu.Unlock()
	log := s.cfg.Logger.With("device", p.device, "protocol", proto.ALPNHTTP)
	log.Info("device connected", "remote", remote)
	leave, room := s.enterGuest(p)
	go func() {
		defer s.wg.Done()
		<-p.ended
		leave()
		s.mu.Lock()
		delete(s.httpPeers, p)
		s.mu.Unlock()
		log.Info("device disconnected")
	}()
	decided := false
	defer func() {
		if !decided { // a check panics
			_ = p.Close()
		}
	}()
	if err := s.authorizeHTTP(p); !room {
		p.refuse(http.StatusServiceUnavailable, errors.New("too many devices are enrolling now"))
	} else if err != nil {
		log.Info("stream refused", "service", ServiceHTTP, "err", err)
		p.refuse(http.StatusForbidden, err)
	} else if err := session.Offer(s.cfg.Mux, ServiceHTTP, p.device, p); err != nil {
		if errors.Is(err, session.ErrWaiting) {
			s.limited(session.LimitWaiting)
		}
		log.Info("stream refused", "service", ServiceHTTP, "err", err)
		p.refuse(http.StatusServiceUnavailable, err)
	}
	s.passesHTTP(p) // as for a session
	decided = true
	return true
}

// authorizeHTTP decides on a peer of atls-http/1 as on a stream to the service http.
func (s *Server) authorizeHTTP(p *httpPeer) error {
	if s.cfg.AuthorizeService == nil || p.guest != nil { // who gets to enrollment, which decides
		return nil
	}
	return s.cfg.AuthorizeService(context.WithValue(s.ctx, peerKey{}, p), p.device, ServiceHTTP)
}

// endProbe waits for a device that only wanted to see Ready to go.
func (s *Server) endProbe(sess *Session) {
	defer s.wg.Done()
	timer := time.NewTimer(probeTimeout)
	defer timer.Stop()
	select {
	case <-sess.Done():
	case <-timer.C:
	}
	_ = sess.Close()
	s.mu.Lock()
	delete(s.live, sess)
	s.mu.Unlock()
}

func bye(sess *Session, code session.Code, text string) {
	ctx, cancel := context.WithTimeout(context.Background(), byeTimeout)
	defer cancel()
	_ = sess.CloseBye(ctx, code, text)
}
