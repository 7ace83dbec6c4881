package server

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"sync"
	"time"

	"github.com/atls-ws/atls-ws/internal/proto"
	"github.com/atls-ws/atls-ws/internal/session"
	"github.com/atls-ws/atls-ws/postconn"
	"github.com/atls-ws/atls-ws/wsconn"
)

const (
	byeTimeout   = 2 * time.Second // to tell a session why it is closed
	retryAfter   = 5 * time.Second // and a random part of retrySpread: a storm must not come again as one
	retrySpread  = 10 * time.Second
	turnsPerCore = 2
	probeTimeout = 30 * time.Second
	postReady    = 3 // times ReadyTimeout: a flight takes a request, and a box may hold each back
)

// Server takes devices' connections as an http.Handler and keeps their
// sessions. All methods may be called from any goroutine.
type Server struct {
	cfg      Config
	session  session.Config
	turns    *turns
	registry Registry
	hosted   *hosted
	anchors  anchors
	post     *postconn.Handler

	ctx    context.Context // ends what is half open
	cancel context.CancelFunc

	mu        sync.Mutex
	closed    bool
	halfOpen  int
	httpPeers int
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
	s := &Server{cfg: *c, live: map[*Session]struct{}{}, anchors: sets}
	s.registry.sessions = map[string][]*Session{}
	s.cfg.TLS = c.TLS.Clone()
	s.cfg.Limits = c.Limits.complete()
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
	app := c.Handler
	if len(s.anchors) > 0 {
		app = s.withAnchors(app)
	}
	if app != nil {
		h, err := host(s.cfg.Mux, app, s.cfg.Logger)
		if err != nil {
			return nil, fmt.Errorf("server: %w", err)
		}
		s.hosted = h
	}
	s.turns = newTurns(turnsPerCore * runtime.GOMAXPROCS(0))
	s.session = session.Config{
		Turns: s.turns,
		TLS:   s.cfg.TLS, Mux: s.cfg.Mux, Logger: s.cfg.Logger,
		Streams: s.cfg.Limits.Streams, Keepalive: s.cfg.Limits.Keepalive, HTTP: s.hosted != nil, Queue: s.cfg.Queue,
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
		w.Header().Set("Allow", "GET, POST")
		http.Error(w, "atls-ws: GET with a WebSocket upgrade, or POST", http.StatusMethodNotAllowed)
		return
	}
	if !s.enter(w) {
		return
	}
	defer s.leave()
	if !s.queue(r.Context()) {
		if r.Context().Err() == nil {
			unavailable(w)
		}
		return
	}
	s.turns.Give() // Accept waits for a client that it sends away
	conn, err := wsconn.Accept(w, r, &wsconn.AcceptOptions{Origins: s.cfg.Origins})
	s.turns.Take()
	defer s.turns.Give()
	if err != nil {
		s.refused(r.RemoteAddr, fmt.Errorf("carrier: %w", err))
		return
	}
	s.serve(conn, r, s.cfg.Limits.ReadyTimeout)
}

// servePost is ServeHTTP for a connection that POST requests make.
func (s *Server) servePost(conn *postconn.Conn, r *http.Request) {
	defer s.leave()
	if !s.queue(s.ctx) {
		_ = conn.Close()
		return
	}
	defer s.turns.Give()
	if s.serve(conn, r, postReady*s.cfg.Limits.ReadyTimeout) {
		conn.Established()
	}
}

// serve does the inner handshake on a carrier whose first request was r, and
// hands over what comes of it.
func (s *Server) serve(conn net.Conn, r *http.Request, bound time.Duration) (ready bool) {
	ctx, cancel := context.WithTimeoutCause(s.ctx, bound, fmt.Errorf("not ready within %s", bound))
	defer cancel()
	in, err := session.Accept(ctx, conn, &s.session)
	if err == nil {
		in.Admit = func(cs tls.ConnectionState, hello *Hello) (string, error) { return s.admit(cs, hello, r.TLS) }
	}
	if err == nil && in.IsHTTP() {
		var peer *httpPeer
		if peer, err = newHTTPPeer(ctx, in); err == nil {
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

// admit decides on a peer whose certificate is verified.
func (s *Server) admit(inner tls.ConnectionState, hello *Hello, outer *tls.ConnectionState) (device string, err error) {
	markIntercepted(hello.Outer, outer)
	if len(s.anchors) == 0 && hello.Outer != nil {
		hello.Outer = hello.Outer.WithoutDER() // nothing will be chosen by it
	}
	device, err = s.cfg.Identify(inner)
	if err == nil {
		err = proto.CheckName(device)
	}
	if err != nil {
		return "", fmt.Errorf("device id: %w", err)
	}
	return device, nil
}

// enter admits a request to the costly part, or answers it.
func (s *Server) enter(w http.ResponseWriter) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.halfOpen >= s.cfg.Limits.HalfOpen || len(s.live)+s.httpPeers >= s.cfg.Limits.Sessions {
		unavailable(w)
		return false
	}
	s.halfOpen++
	s.wg.Add(1)
	return true
}

func unavailable(w http.ResponseWriter) {
	after := retryAfter + rand.N(retrySpread)
	w.Header().Set("Retry-After", fmt.Sprint(int(after.Seconds())))
	http.Error(w, "atls-ws: no room for a further session now", http.StatusServiceUnavailable)
}

// queue waits for the first turn of a handshake, while the device waits too and
// for half of the time that it has. It returns false when there was none.
func (s *Server) queue(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Limits.ReadyTimeout/2)
	defer cancel()
	return s.turns.Begin(ctx)
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
		go func() {
			defer s.wg.Done()
			s.endProbe(sess)
		}()
		return true
	}
	log().Info("device connected", attrs...)
	old := s.registry.put(sess)
	if s.cfg.Hooks.Connected != nil {
		s.cfg.Hooks.Connected(sess)
	}
	for _, o := range old {
		log().Info("newer session of the device replaces the old", "old", o.ID())
		s.wg.Go(func() { bye(o, proto.Replaced, "a newer session of this device took over") })
	}
	sess.OnDone(func() {
		defer s.wg.Done()
		s.registry.remove(sess) // before Close, which waits for signal handlers
		_ = sess.Close()
		s.mu.Lock()
		delete(s.live, sess)
		s.mu.Unlock()
		log().Info("device disconnected", "err", sess.Err(), "after", time.Since(sess.Opened()).Round(time.Millisecond).String())
		if s.cfg.Hooks.Disconnected != nil {
			s.cfg.Hooks.Disconnected(sess, sess.Err())
		}
	})
	return true
}

// adoptHTTP hands a connection of atls-http/1 to the hosted handler and follows
// it to its end.
func (s *Server) adoptHTTP(p *httpPeer, remote string) bool {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		_ = p.Close()
		return false
	}
	s.httpPeers++
	s.wg.Add(1)
	s.mu.Unlock()
	log := s.cfg.Logger.With("device", p.device, "protocol", proto.ALPNHTTP)
	log.Info("device connected", "remote", remote)
	if !s.hosted.peers.offer(p) {
		_ = p.Close()
	}
	go func() {
		defer s.wg.Done()
		<-p.ended
		s.mu.Lock()
		s.httpPeers--
		s.mu.Unlock()
		log.Info("device disconnected")
	}()
	return true
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

// Shutdown asks all devices to reconnect, waits for them to go while ctx lasts,
// and closes. New connections get 503.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	live := make([]*Session, 0, len(s.live))
	for sess := range s.live {
		live = append(live, sess)
	}
	s.mu.Unlock()
	// Devices come back over a while that grows with their number.
	spread := time.Second + time.Duration(len(live))*time.Millisecond
	var telling sync.WaitGroup
	for _, sess := range live {
		telling.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, byeTimeout)
			defer cancel()
			_ = sess.Drain(ctx, time.Second, spread)
		})
	}
	telling.Wait()
	for _, sess := range live {
		select {
		case <-sess.Done():
			continue
		case <-ctx.Done():
		}
		break
	}
	return errors.Join(ctx.Err(), s.Close())
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
	s.mu.Unlock()
	s.cancel()
	var closing sync.WaitGroup
	for _, sess := range live {
		closing.Go(func() { bye(sess, proto.Closing, "the server is shutting down") })
	}
	closing.Wait()
	if s.hosted != nil {
		s.hosted.close()
	}
	_ = s.post.Close()
	s.wg.Wait()
	return nil
}
