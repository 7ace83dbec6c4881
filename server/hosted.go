package server

import (
	"context"
	"crypto/tls"
	"fmt"
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

// hosted serves the application as the service http: on streams of sessions, and
// on the inner connections of atls-http/1.
type hosted struct {
	srv *http.Server
	wg  sync.WaitGroup
}

func host(c *Config, app http.Handler) (*hosted, error) {
	l, err := c.Mux.Listen(ServiceHTTP)
	if err != nil {
		return nil, err
	}
	h := &hosted{}
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
			}
			app.ServeHTTP(w, r)
		}),
	}
	h.wg.Go(func() { _ = h.srv.Serve(l) }) // ends when close does
	return h, nil
}

func (h *hosted) close() {
	_ = h.srv.Close()
	h.wg.Wait()
}

type peerKey struct{}

// Device returns the id of the device that the context of a signal handler, of a
// hosted request or of a request that OpenSealed opened belongs to.
func Device(ctx context.Context) (string, bool) {
	if s, ok := FromContext(ctx); ok {
		return s.Device(), true
	}
	if p, ok := ctx.Value(peerKey{}).(*httpPeer); ok && p.guest == nil {
		return p.device, true
	}
	if device, ok := ctx.Value(sealedDeviceKey{}).(string); ok {
		return device, true
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

// httpPeer is a connection of a peer that negotiated atls-http/1: one to the
// service http, without a session.
type httpPeer struct {
	*tls.Conn
	device string
	guest  *guest // nil: a device
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

// Device is the id of the peer, for the logs of whatever serves it.
func (p *httpPeer) Device() string { return p.device }

// refuse answers the peer's first request, whatever it is, and ends the connection.
func (p *httpPeer) refuse(status int, err error) {
	text := err.Error() + "\n"
	_, _ = fmt.Fprintf(p, "HTTP/1.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", status, http.StatusText(status), len(text), text)
	_ = p.Close()
}

func (p *httpPeer) Write(b []byte) (int, error) {
	_ = p.SetWriteDeadline(time.Now().Add(hostedWriteTimeout))
	return p.Conn.Write(b)
}

// Reset ends the connection without TLS's goodbye: the peer sees a cut, not an end.
func (p *httpPeer) Reset() {
	_ = p.NetConn().Close()
	_ = p.Close()
}

func (p *httpPeer) Close() error {
	err := p.Conn.Close()
	p.once.Do(func() { close(p.ended) })
	return err
}
