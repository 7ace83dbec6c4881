package server

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/atls-ws/atls-ws/internal/proto"
	"github.com/atls-ws/atls-ws/internal/session"
	"github.com/atls-ws/atls-ws/postconn"
	"github.com/atls-ws/atls-ws/wsconn"
)

const (
	byeTimeout   = 2 * time.Second // to tell a session why it is closed
	retryAfter   = 10 * time.Second
	probeTimeout = 30 * time.Second
	postReady    = 3 // times ReadyTimeout: a flight takes a request, and a box may hold each back
)

// Server takes devices' connections as an http.Handler and keeps their
// sessions. All methods may be called from any goroutine.
type Server struct {
	cfg      Config
	registry Registry
	hosted   *hosted
	anchors  atomic.Pointer[anchors]
	post     *postconn.Handler

	operational *x509.CertPool // authorities of devices, without those of the factory

	ctx    context.Context // ends what is half open
	cancel context.CancelFunc

	mu        sync.Mutex
	check     Check
	counts    Stats // what is counted of them
	closed    bool
	halfOpen  int
	httpPeers map[*httpPeer]struct{}
	guests    int // of them
	live      map[*Session]struct{}
	wg        sync.WaitGroup
}

// New checks the configuration and makes a server. It does no I/O. The caller
// closes it.
func New(c *Config) (*Server, error) {
	if c == nil {
		return nil, errors.New("server: no configuration")
	}
	if err := session.CheckServerTLS(c.TLS); err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	sets, err := newAnchors(c.Anchors)
	if err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	s := &Server{cfg: *c, live: map[*Session]struct{}{}, httpPeers: map[*httpPeer]struct{}{}}
	s.anchors.Store(&sets)
	s.registry.sessions = map[string][]*Session{}
	s.cfg.TLS = c.TLS.Clone()
	s.cfg.Limits = c.Limits.complete()
	if s.cfg.KeyLifetime <= 0 {
		s.cfg.KeyLifetime = time.Hour
	}
	if s.cfg.Identify == nil {
		s.cfg.Identify = Identify
	}
	if s.cfg.Mux == nil {
		s.cfg.Mux = new(Mux)
	}
	if s.cfg.Logger == nil {
		s.cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s.post = postconn.NewHandler(&postconn.HandlerOptions{Accept: s.servePost, Admit: s.enter, MaxConns: s.cfg.Limits.Sessions})
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := s.prepareEnrollment(); err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	app := c.Handler
	if app != nil || len(sets) > 0 {
		app = s.withAnchors(app)
	}
	if c.Enrollment != nil {
		app = s.withEnrollment(app)
	}
	if app != nil {
		h, err := host(&s.cfg, app)
		if err != nil {
			return nil, fmt.Errorf("server: %w", err)
		}
		s.hosted = h
	}
	if s.cfg.Keys != nil {
		s.wg.Go(s.renewKeys)
	}
	return s, nil
}

// Registry is the devices that are connected.
func (s *Server) Registry() *Registry { return &s.registry }

// ServeHTTP answers a device's request for a carrier. For a WebSocket it returns
// when the session is ready, or refused; the session then lives on by itself.
// Mount it at DefaultPath, in an http.Server with a ReadHeaderTimeout and a
// ReadTimeout: what a stranger withholds before this is called, or of a body that
// nobody reads, only they bound. They end with the upgrade.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodPost:
		s.post.ServeHTTP(w, r)
		return
	case http.MethodGet:
	default:
		// A load balancer looks with HEAD: 405 takes devices, 503 is stopping.
		if !s.takes(w) {
			return
		}
		w.Header().Set("Allow", "GET, POST")
		http.Error(w, "atls-ws: GET with a WebSocket upgrade, or POST", http.StatusMethodNotAllowed)
		return
	}
	if !s.enter(w) {
		return
	}
	defer s.leave()
	conn, err := wsconn.Accept(w, r, &wsconn.AcceptOptions{Origins: s.cfg.Origins})
	if err != nil {
		s.refused(r.RemoteAddr, fmt.Errorf("carrier: %w", err))
		return
	}
	s.serve(conn, r, s.cfg.Limits.ReadyTimeout)
}

// servePost is ServeHTTP for a connection that POST requests make.
func (s *Server) servePost(conn *postconn.Conn, r *http.Request) {
	defer s.leave()
	if s.serve(conn, r, postReady*s.cfg.Limits.ReadyTimeout) {
		conn.Established()
	}
}

// serve does the inner handshake on a carrier whose first request was r, and
// hands over what comes of it.
func (s *Server) serve(conn net.Conn, r *http.Request, bound time.Duration) (ready bool) {
	ctx, cancel := context.WithTimeoutCause(s.ctx, bound, fmt.Errorf("not ready within %s", bound))
	defer cancel()
	var guest *guest
	in, err := session.Accept(ctx, conn, &session.Config{
		TLS: s.cfg.TLS, Mux: s.cfg.Mux, Logger: s.cfg.Logger.With("remote", r.RemoteAddr),
		Streams: s.cfg.Limits.Streams, Keepalive: s.cfg.Limits.Keepalive, HTTP: slices.Contains(s.cfg.Mux.Services(), ServiceHTTP), Queue: s.cfg.Queue,
		Guests:    s.cfg.Enrollment != nil && s.cfg.Enrollment.Token != nil,
		Authorize: s.cfg.AuthorizeService,
		Admit: func(cs tls.ConnectionState, hello *Hello) (string, error) {
			markIntercepted(hello.Outer, r.TLS)
			if len(*s.anchors.Load()) == 0 && hello.Outer != nil {
				hello.Outer = hello.Outer.WithoutDER() // nothing will be chosen by it
			}
			var err error
			if guest, err = s.guest(cs); err != nil || guest != nil {
				return fmt.Sprint(guest), err
			}
			device, err := s.cfg.Identify(cs)
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
		},
	})
	if err == nil && in.IsHTTP() {
		var peer *httpPeer
		if peer, err = newHTTPPeer(ctx, in); err == nil {
			peer.guest = guest
			return s.adoptHTTP(peer, r.RemoteAddr)
		}
	}
	if err != nil {
		s.refused(r.RemoteAddr, err)
		return false
	}
	sess, err := in.Session(ctx)
	if err != nil {
		s.refused(r.RemoteAddr, err)
		return false
	}
	return s.adopt(sess, r.RemoteAddr)
}

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
	if s.closed {
		s.counts.Draining++
		stopping(w)
		return false
	}
	if full, sessions := s.halfOpen >= s.cfg.Limits.HalfOpen, len(s.live)+len(s.httpPeers) >= s.cfg.Limits.Sessions; full || sessions {
		if full {
			s.counts.FullHalfOpen++
		} else {
			s.counts.FullSessions++
		}
		w.Header().Set("Retry-After", fmt.Sprint(int(retryAfter.Seconds())))
		http.Error(w, "atls-ws: no room for a further session now", http.StatusServiceUnavailable)
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

func (s *Server) refused(remote string, err error) {
	s.cfg.Logger.Warn("connection refused", "remote", remote, "err", err)
	if s.cfg.Hooks.Refused != nil {
		s.cfg.Hooks.Refused(remote, err)
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

	log := s.cfg.Logger.With("device", sess.Device(), "session", sess.ID())
	attrs := []any{"remote", remote, "software", sess.Hello().Software}
	if o := sess.Hello().Outer; o != nil {
		attrs = append(attrs, "outer_verified", o.Verified, "intercepted", o.Intercepted)
		if len(o.Chain) > 0 {
			attrs = append(attrs, "outer_issuer", o.Chain[0].Issuer)
		}
	}
	if !s.passes(sess) {
		s.wg.Go(func() { s.endProbe(sess) }) // it never becomes the device's
		s.wg.Done()
		return true
	}
	if sess.Hello().Probe {
		log.Info("device probes the path", attrs...)
		go func() {
			defer s.wg.Done()
			s.endProbe(sess)
		}()
		return true
	}
	log.Info("device connected", attrs...)
	old := s.registry.put(sess)
	if s.cfg.Hooks.Connected != nil {
		s.cfg.Hooks.Connected(sess)
	}
	for _, o := range old {
		log.Info("newer session of the device replaces the old", "old", o.ID())
		s.wg.Go(func() { bye(o, proto.Replaced, "a newer session of this device took over") })
	}
	s.recheck(sess) // the decision may have changed before it was among the live
	go func() {
		defer s.wg.Done()
		<-sess.Done()
		s.registry.remove(sess) // before Close, which waits for signal handlers
		_ = sess.Close()
		s.mu.Lock()
		delete(s.live, sess)
		s.mu.Unlock()
		log.Info("device disconnected", "err", sess.Err(), "after", time.Since(sess.Opened()).Round(time.Millisecond).String())
		if s.cfg.Hooks.Disconnected != nil {
			s.cfg.Hooks.Disconnected(sess, sess.Err())
		}
	}()
	return true
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
	if !s.passesHTTP(p) {
		log.Debug("ended at once") // passesHTTP has said why
	} else if err := s.authorizeHTTP(p); !room {
		p.refuse(http.StatusServiceUnavailable, errors.New("too many devices are enrolling now"))
	} else if err != nil {
		log.Info("stream refused", "service", ServiceHTTP, "err", err)
		p.refuse(http.StatusForbidden, err)
	} else if err := session.Offer(s.cfg.Mux, ServiceHTTP, p); err != nil {
		log.Warn("service does not accept", "service", ServiceHTTP, "err", err)
		_ = p.Close()
	}
	s.recheckHTTP(p)
	go func() {
		defer s.wg.Done()
		<-p.ended
		leave()
		s.mu.Lock()
		delete(s.httpPeers, p)
		s.mu.Unlock()
		log.Info("device disconnected")
	}()
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

// get returns the device's session or ErrNotConnected.
func (s *Server) get(device string) (*Session, error) {
	if sess, ok := s.registry.Get(device); ok {
		return sess, nil
	}
	return nil, fmt.Errorf("device %s: %w", device, ErrNotConnected)
}

// Push sends a signal to a device and returns the reply of its handler, after
// that has returned nil. A refusal is a *RefusedError; ErrNotConnected comes at
// once. When ctx ends first, the signal may still be handled.
func (s *Server) Push(ctx context.Context, device string, sig Signal) (reply string, err error) {
	sess, err := s.get(device)
	if err != nil {
		return "", err
	}
	return sess.Signal(ctx, sig)
}

// DialDevice connects to a service of a device. The caller owns the connection,
// a *Stream. ctx bounds the dialing, not the connection.
func (s *Server) DialDevice(ctx context.Context, device, service string) (net.Conn, error) {
	sess, err := s.get(device)
	if err != nil {
		return nil, err
	}
	return sess.Dial(ctx, service)
}

// Transport sends HTTP/1.1 requests to a service of a device, over whatever
// session it has then. The caller closes its idle connections.
func (s *Server) Transport(device, service string) *http.Transport {
	return session.Transport(func(ctx context.Context) (net.Conn, error) {
		return s.DialDevice(ctx, device, service)
	})
}

// Close ends all sessions, telling the devices, and waits for everything that
// the server started. A second Close waits too.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	live := make([]*Session, 0, len(s.live))
	for sess := range s.live {
		live = append(live, sess)
	}
	peers := slices.Collect(maps.Keys(s.httpPeers))
	s.mu.Unlock()
	s.cancel()
	var closing sync.WaitGroup
	for _, sess := range live {
		closing.Go(func() { bye(sess, proto.Closing, "the server is shutting down") })
	}
	for _, p := range peers {
		closing.Go(func() { _ = p.Close() })
	}
	closing.Wait()
	if s.hosted != nil {
		s.hosted.close()
	}
	_ = s.post.Close()
	s.wg.Wait()
	return nil
}
