package server

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/atls-ws/atls-ws/internal/session"
)

const (
	hostedHeaderTimeout = 10 * time.Second
	hostedIdleTimeout   = 2 * time.Minute
	hostedWriteTimeout  = time.Minute // for a peer of atls-http/1 to take what is written: no keepalive watches it
)

// hosted serves the application on the inner sessions' service http, and on the
// inner connections of atls-http/1.
type hosted struct {
	srv   *http.Server
	peers *peerListener
	wg    sync.WaitGroup
}

func host(c *Config, app http.Handler) (*hosted, error) {
	streams, err := c.Mux.Listen(ServiceHTTP)
	if err != nil {
		return nil, err
	}
	h := &hosted{peers: &peerListener{conns: make(chan *httpPeer), done: make(chan struct{})}}
	h.srv = &http.Server{
		ReadHeaderTimeout: hostedHeaderTimeout,
		IdleTimeout:       hostedIdleTimeout,
		ErrorLog:          slog.NewLogLogger(c.Logger.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			if p, ok := conn.(*httpPeer); ok {
				return context.WithValue(ctx, peerKey{}, p)
			}
			return session.NewContext(ctx, conn.(*Stream).Session())
		},
		// net/http fills TLS from its own connections only; what the handler must
		// see is the inner state, by which the device was authenticated.
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if s, ok := FromContext(r.Context()); ok {
				state := s.ConnectionState()
				r.TLS = &state
			} else if p, ok := r.Context().Value(peerKey{}).(*httpPeer); ok {
				state := p.ConnectionState()
				r.TLS = &state
				// A stream is refused where it is opened; here there is none.
				if c.AuthorizeService != nil {
					if err := c.AuthorizeService(r.Context(), p.device, ServiceHTTP); err != nil {
						http.Error(w, err.Error(), http.StatusForbidden)
						return
					}
				}
			}
			app.ServeHTTP(w, r)
		}),
	}
	for _, l := range []net.Listener{streams, h.peers} {
		h.wg.Go(func() { _ = h.srv.Serve(l) }) // ends when close does
	}
	return h, nil
}

func (h *hosted) close() {
	_ = h.srv.Close()
	_ = h.peers.Close()
	h.wg.Wait()
}

type peerKey struct{}

// Device returns the id of the device that a signal handler's or a hosted
// request's context belongs to.
func Device(ctx context.Context) (string, bool) {
	if s, ok := FromContext(ctx); ok {
		return s.Device(), true
	}
	if p, ok := ctx.Value(peerKey{}).(*httpPeer); ok {
		return p.device, true
	}
	return "", false
}

// ConnectionState returns the inner TLS state of the device that a signal
// handler's or a hosted request's context belongs to.
func ConnectionState(ctx context.Context) (tls.ConnectionState, bool) {
	if s, ok := FromContext(ctx); ok {
		return s.ConnectionState(), true
	}
	if p, ok := ctx.Value(peerKey{}).(*httpPeer); ok {
		return p.ConnectionState(), true
	}
	return tls.ConnectionState{}, false
}

// httpPeer is a connection of a peer that negotiated atls-http/1.
type httpPeer struct {
	*tls.Conn
	device string
	once   sync.Once
	ended  chan struct{}
}

// newHTTPPeer admits a peer.
func newHTTPPeer(ctx context.Context, in *session.Inner) (*httpPeer, error) {
	conn, device, err := in.HTTP(ctx)
	if err != nil {
		return nil, err
	}
	return &httpPeer{Conn: conn, device: device, ended: make(chan struct{})}, nil
}

func (p *httpPeer) Write(b []byte) (int, error) {
	_ = p.SetWriteDeadline(time.Now().Add(hostedWriteTimeout))
	return p.Conn.Write(b)
}

func (p *httpPeer) Close() error {
	err := p.Conn.Close()
	p.once.Do(func() { close(p.ended) })
	return err
}

// peerListener hands httpPeers to the http.Server.
type peerListener struct {
	conns chan *httpPeer
	done  chan struct{}
	once  sync.Once
}

// offer hands p over and says whether it was taken.
func (l *peerListener) offer(p *httpPeer) bool {
	select {
	case l.conns <- p:
		return true
	case <-l.done:
		return false
	}
}

func (l *peerListener) Accept() (net.Conn, error) {
	select {
	case p := <-l.conns:
		return p, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *peerListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *peerListener) Addr() net.Addr { return &net.UnixAddr{Name: "atls-http/1", Net: "atls"} }
