// Package expose makes TCP addresses and unix sockets reachable for the other
// end of a session, as services of a Mux. Both roles use it.
package expose

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/session"
)

const dialTimeout = 10 * time.Second // to a target

// Services are targets that are reachable. Their owner closes them.
type Services struct {
	log    *slog.Logger
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	listeners []net.Listener
}

// Start listens on mux for every service of targets, which maps names to what
// config.ParseTarget reads. A target is connected to when a peer asks for it,
// not before. log is required.
func Start(mux *session.Mux, targets map[string]string, log *slog.Logger) (*Services, error) {
	s := &Services{log: log}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	for name, text := range targets {
		target, err := config.ParseTarget(text)
		if err == nil {
			var l net.Listener
			if l, err = mux.Listen(name); err == nil {
				s.listeners = append(s.listeners, l)
				s.wg.Go(func() { s.accept(l, name, target) })
				continue
			}
		}
		s.Close()
		return nil, fmt.Errorf("service %s: %w", name, err)
	}
	return s, nil
}

// Close ends the listeners and the connections, and waits for them.
func (s *Services) Close() {
	s.cancel()
	for _, l := range s.listeners {
		_ = l.Close()
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
	log := s.log.With("service", name, "target", target.String())
	switch c := conn.(type) {
	case *session.Stream:
		log = log.With("device", c.Session().Device(), "session", c.Session().ID())
	case interface{ Device() string }: // a peer of atls-http/1
		log = log.With("device", c.Device())
	}
	ctx, cancel := context.WithTimeout(s.ctx, dialTimeout)
	defer cancel()
	to, err := new(net.Dialer).DialContext(ctx, target.Network, target.Address)
	if err != nil {
		if st, ok := conn.(interface{ Reset() }); ok {
			st.Reset() // the peer must not take this for an orderly end
		}
		_ = conn.Close()
		log.Warn("service does not answer", "err", err)
		return
	}
	stop := context.AfterFunc(s.ctx, func() {
		_ = conn.Close()
		_ = to.Close()
	})
	defer stop()
	log.Debug("service connected")
	err = session.Splice(conn, to)
	log.Debug("service ended", "err", err)
}
