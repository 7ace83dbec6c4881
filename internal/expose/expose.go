// Package expose makes what is reachable from this machine reachable for the
// other end of a session, as services of a Mux: TCP addresses, unix sockets, UDP
// addresses, programs, and a proxy with a list of destinations. Both roles use it.
package expose

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/limit"
	"github.com/atls-ws/atls-ws/internal/session"
	"github.com/atls-ws/atls-ws/internal/udp"
)

const dialTimeout = 10 * time.Second // to a target

// Options say how services are reachable. Logger is required.
type Options struct {
	Logger *slog.Logger
	// Limits bound what one peer can use; nil: nothing is bounded.
	Limits *limit.Peers
}

// Services are targets that are reachable. Their owner closes them. Set and
// Close are called one after the other.
type Services struct {
	log    *slog.Logger
	limits *limit.Peers
	mux    *session.Mux
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	offered map[string]offer // by name
}

// offer is a service that is listened on.
type offer struct {
	text     string // its target
	listener net.Listener
}

// Start listens on mux for every service of targets, which maps names to what
// config.ParseTarget reads. A target is connected to when a peer asks for it,
// not before.
func Start(mux *session.Mux, targets map[string]string, o Options) (*Services, error) {
	s := &Services{log: o.Logger, limits: o.Limits, mux: mux, offered: map[string]offer{}}
	if s.limits == nil {
		s.limits = new(limit.Peers)
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := s.Set(targets); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Set makes targets what is reachable. What has not changed is not touched, and
// connections to what is not reachable any more go on. On an error everything is
// as before.
func (s *Services) Set(targets map[string]string) error {
	parsed, added := map[string]config.Target{}, map[string]net.Listener{}
	var err error
	for _, name := range slices.Sorted(maps.Keys(targets)) {
		if parsed[name], err = config.ParseTarget(targets[name]); err == nil {
			if _, there := s.offered[name]; there {
				continue
			}
			added[name], err = s.mux.Listen(name)
		}
		if err != nil {
			delete(added, name)
			for _, l := range added {
				_ = l.Close()
			}
			return fmt.Errorf("service %s: %w", name, err)
		}
	}
	for name, old := range s.offered {
		if text, stays := targets[name]; stays && text == old.text {
			continue
		}
		_ = old.listener.Close()
		delete(s.offered, name)
	}
	for name, text := range targets {
		if _, there := s.offered[name]; there {
			continue
		}
		l := added[name]
		if l == nil { // another target: its name has just become free
			if l, err = s.mux.Listen(name); err != nil {
				return fmt.Errorf("service %s: %w", name, err)
			}
		}
		s.offered[name] = offer{text, l}
		s.wg.Go(func() { s.accept(l, name, parsed[name]) })
	}
	return nil
}

// Close ends the listeners and the connections, and waits for them.
func (s *Services) Close() {
	s.cancel()
	for _, o := range s.offered {
		_ = o.listener.Close()
	}
	s.wg.Wait()
}

func (s *Services) accept(l net.Listener, name string, target config.Target) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return // closed
		}
		s.wg.Go(func() { s.serve(conn, name, target) })
	}
}

// serve connects one stream with the target.
func (s *Services) serve(conn net.Conn, name string, target config.Target) {
	log := s.log.With("service", name, "target", target.Scheme)
	if target.Address != "" {
		log = s.log.With("service", name, "target", target.String())
	}
	peer, gone := "", make(<-chan struct{})
	switch c := conn.(type) {
	case *session.Stream:
		peer, gone = c.Session().Device(), c.Session().Done()
		log = log.With("device", peer, "session", c.Session().ID())
	case interface{ Device() string }: // a peer of atls-http/1
		peer = c.Device()
		log = log.With("device", peer)
	}
	leave, ok := s.limits.Enter(peer)
	if !ok {
		abort(conn)
		log.Warn("service has as many connections as one peer may have")
		return
	}
	defer leave()
	conn = s.limits.Wrap(peer, conn)
	stop := context.AfterFunc(s.ctx, func() { _ = conn.Close() })
	defer stop()
	var err error
	switch target.Scheme {
	case "exec":
		err = serveExec(s.ctx, conn, gone, target.Command, log)
	case "proxy":
		err = serveProxy(s.ctx, conn, target.Allow, log)
	case "udp":
		err = s.connect(conn, target, log, udp.Join)
	default:
		err = s.connect(conn, target, log, session.Splice)
	}
	log.Debug("service ended", "err", err)
}

// connect joins a stream with a connection to its target.
func (s *Services) connect(conn net.Conn, target config.Target, log *slog.Logger, join func(conn, to net.Conn) error) error {
	ctx, cancel := context.WithTimeout(s.ctx, dialTimeout)
	defer cancel()
	to, err := new(net.Dialer).DialContext(ctx, target.Network, target.Address)
	if err != nil {
		abort(conn)
		log.Warn("service does not answer", "err", err)
		return err
	}
	defer context.AfterFunc(s.ctx, func() { _ = to.Close() })()
	log.Debug("service connected")
	return join(conn, to)
}

// abort ends a stream as a failure: the peer must not take it for an orderly end.
func abort(conn net.Conn) {
	if st, ok := conn.(interface{ Reset() }); ok {
		st.Reset()
	}
	_ = conn.Close()
}
