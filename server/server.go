package server

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/atls-ws/atls-ws/internal/proto"
	"github.com/atls-ws/atls-ws/internal/session"
	"github.com/atls-ws/atls-ws/postconn"
	"github.com/atls-ws/atls-ws/wsconn"
)

// Server takes devices' connections as an http.Handler and keeps their
// sessions. All methods may be called from any goroutine.
type Server struct {
	cfg      Config
	acceptor *session.Acceptor
	turns    *turns
	registry Registry
	hosted   *hosted
	anchors  atomic.Pointer[anchors]
	post     *postconn.Handler

	operational *x509.CertPool // authorities of devices, without those of the factory

	ctx    context.Context // ends what is half open
	cancel context.CancelFunc

	mu        sync.Mutex
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
	if err := session.CheckServerTLS(c.TLS); err != nil { // before anything is made of it
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
	s.post = postconn.NewHandler(&postconn.HandlerOptions{Accept: s.servePost, Admit: s.enter, Refused: s.refusedRequest, MaxConns: s.cfg.Limits.Sessions})
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
	cores := runtime.GOMAXPROCS(0)
	s.turns = newTurns(turnsPerCore*cores, underWay*cores, inLine*cores)
	s.acceptor, err = session.NewAcceptor(&session.Config{
		TLS: s.cfg.TLS, Mux: s.cfg.Mux, Logger: s.cfg.Logger,
		Streams: s.cfg.Limits.Streams, Unread: s.cfg.Limits.Unread, Keepalive: s.cfg.Limits.Keepalive, Queue: s.cfg.Queue,
		HTTP: ServiceHTTP, Guests: c.Enrollment != nil && c.Enrollment.Token != nil,
		Authorize: s.cfg.AuthorizeService, SignalRate: s.cfg.Limits.SignalRate, Limited: s.limited,
	})
	if err != nil {
		return nil, fmt.Errorf("server: %w", err)
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
	var turn *turn
	if r.TLS != nil { // the outer handshake has begun it: see Listener
		turn = s.turns.Join()
	} else if turn = s.queue(r.Context()); turn != nil {
		turn.Give() // Accept waits for a client that it sends away
	} else {
		if r.Context().Err() == nil {
			unavailable(w)
		}
		return
	}
	defer turn.Leave()
	conn, err := wsconn.Accept(w, r, &wsconn.AcceptOptions{Origins: s.cfg.Origins})
	if err != nil {
		s.refused(r.RemoteAddr, fmt.Errorf("carrier: %w", err))
		return
	}
	turn.Take()
	s.serve(conn, r, turn, s.cfg.Limits.ReadyTimeout)
}

// servePost is ServeHTTP for a connection that POST requests make.
func (s *Server) servePost(conn *postconn.Conn, r *http.Request) {
	defer s.leave()
	defer func() { // what net/http does for a WebSocket
		if p := recover(); p != nil && p != http.ErrAbortHandler { //nolint:errorlint // as net/http compares it
			s.cfg.Logger.Error("a decision on a device panicked", "remote", r.RemoteAddr, "panic", p, "stack", string(debug.Stack()))
			_ = conn.Close()
		}
	}()
	var turn *turn
	if r.TLS != nil {
		turn = s.turns.Join()
		turn.Take()
	} else if turn = s.queue(s.ctx); turn == nil {
		_ = conn.Close()
		return
	}
	if s.serve(conn, r, turn, postReady*s.cfg.Limits.ReadyTimeout) {
		conn.Established()
	}
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
