package client

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"

	"github.com/atls-ws/atls-ws/internal/session"
)

// Client is a long-lived device: Run keeps a session with the server, and the
// other methods use the one that is up. All methods may be called from any
// goroutine.
type Client struct {
	paths   paths
	updated chan struct{}
	notice  *notice

	mu      sync.Mutex
	cfg     *Config // replaced as a whole
	session *Session
	up      chan struct{} // closed while session is set
}

// New checks the configuration and makes a client. It does no I/O.
func New(c *Config) (*Client, error) {
	cfg, err := c.complete()
	if err != nil {
		return nil, err
	}
	return &Client{cfg: cfg, up: make(chan struct{}), updated: make(chan struct{}, 1), notice: newNotice()}, nil
}

func (c *Client) set(s *Session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case s != nil && c.session == nil:
		close(c.up)
	case s == nil && c.session != nil:
		c.up = make(chan struct{})
	}
	c.session = s
}

// Session returns the session that is up, nil when none is. Run owns it.
func (c *Client) Session() *Session {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.session
}

// wait returns the session, waiting for one as long as ctx lets it.
func (c *Client) wait(ctx context.Context) (*Session, error) {
	for {
		c.mu.Lock()
		s, up := c.session, c.up
		c.mu.Unlock()
		if s != nil {
			return s, nil
		}
		select {
		case <-up:
		case <-ctx.Done():
			return nil, errors.Join(ErrNoSession, ctx.Err())
		}
	}
}

// Dial connects to a service of the server, waiting for a session if none is
// up. The caller owns the connection. ctx bounds the dialing, not the
// connection.
func (c *Client) Dial(ctx context.Context, service string) (net.Conn, error) {
	s, err := c.wait(ctx)
	if err != nil {
		return nil, err
	}
	return s.Dial(ctx, service)
}

// Signal sends a signal to the server and returns its handler's reply, waiting
// for a session if none is up. A refusal is a *RefusedError.
func (c *Client) Signal(ctx context.Context, sig Signal) (reply string, err error) {
	s, err := c.wait(ctx)
	if err != nil {
		return "", err
	}
	return s.Signal(ctx, sig)
}

// Transport sends HTTP/1.1 requests to a service of the server; the host of
// their URLs goes into Host alone. The caller closes its idle connections.
func (c *Client) Transport(service string) *http.Transport {
	return session.Transport(func(ctx context.Context) (net.Conn, error) { return c.Dial(ctx, service) })
}

// OnSignal sets the handler of the signals of that name, AnySignal for all that
// have none.
func (c *Client) OnSignal(name string, h SignalHandler) { c.config().Mux.OnSignal(name, h) }

// Listen makes a service of this device reachable for the server, over all
// sessions, until the listener is closed.
func (c *Client) Listen(service string) (net.Listener, error) { return c.config().Mux.Listen(service) }
