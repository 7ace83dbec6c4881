package client

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"
)

// dialEarly makes a session over a WebSocket whose upgrade request carries the
// ClientHello of the inner TLS behind it.
func (d *dialer) dialEarly(ctx context.Context) (*Session, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, dialTimeout+readyTimeout, timeoutError("no ready within "+(dialTimeout+readyTimeout).String()))
	defer cancel()
	var outer func() *tls.ConnectionState
	e := &earlyConn{open: func(first []byte) (c *carrier, err error) {
		c, outer, err = d.open(ctx, CarrierWebSocket, first)
		return c, err
	}}
	s, err := d.session(ctx, e, CarrierWebSocket, func() *tls.ConnectionState { return outer() })
	if failed := e.failure(); failed != nil {
		return nil, failed // without what the inner handshake makes of it
	}
	return s, err
}

// earlyConn is a carrier that is opened by the first write to it, which travels
// with the upgrade request: see Config.EarlyHello.
type earlyConn struct {
	open func(first []byte) (*carrier, error)

	mu     sync.Mutex
	conn   *carrier // nil until it is open
	err    error    // why it is not
	closed bool
}

// errNotOpen comes of no use that a TLS client makes of a connection.
var errNotOpen = errors.New("the carrier is opened by the first write")

func (e *earlyConn) now() (*carrier, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.closed && e.conn == nil:
		return nil, net.ErrClosed
	case e.err != nil:
		return nil, e.err
	case e.conn == nil:
		return nil, errNotOpen
	}
	return e.conn, nil
}

func (e *earlyConn) Read(p []byte) (int, error) {
	c, err := e.now()
	if err != nil {
		return 0, err
	}
	return c.Read(p)
}

func (e *earlyConn) Write(p []byte) (int, error) {
	c, err := e.now()
	if err == nil {
		return c.Write(p)
	}
	if !errors.Is(err, errNotOpen) {
		return 0, err
	}
	c, err = e.open(p) // the handshake's goroutine is the only one that writes yet
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil {
		e.err = err
		return 0, err
	}
	e.conn = c
	if e.closed { // meanwhile: Close had nothing to close
		_ = c.Close()
		return 0, net.ErrClosed
	}
	return len(p), nil
}

// failure is why it was not opened.
func (e *earlyConn) failure() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}

func (e *earlyConn) Close() error {
	e.mu.Lock()
	e.closed = true
	c := e.conn
	e.mu.Unlock()
	if c == nil {
		return nil
	}
	return c.Close()
}

// Cork and Uncork are the carrier's.
func (e *earlyConn) Cork() {
	if c, err := e.now(); err == nil {
		c.Cork()
	}
}

// Uncork ends Cork.
func (e *earlyConn) Uncork() {
	if c, err := e.now(); err == nil {
		c.Uncork()
	}
}

// SetWriteBuffer is the carrier's.
func (e *earlyConn) SetWriteBuffer(n int) error {
	c, err := e.now()
	if err != nil {
		return err
	}
	return c.SetWriteBuffer(n)
}

func (e *earlyConn) LocalAddr() net.Addr {
	if c, err := e.now(); err == nil {
		return c.LocalAddr()
	}
	return unopened{}
}

func (e *earlyConn) RemoteAddr() net.Addr {
	if c, err := e.now(); err == nil {
		return c.RemoteAddr()
	}
	return unopened{}
}

func (e *earlyConn) SetDeadline(t time.Time) error { return e.deadline(t, net.Conn.SetDeadline) }
func (e *earlyConn) SetReadDeadline(t time.Time) error {
	return e.deadline(t, net.Conn.SetReadDeadline)
}
func (e *earlyConn) SetWriteDeadline(t time.Time) error {
	return e.deadline(t, net.Conn.SetWriteDeadline)
}

// deadline does nothing before there is a connection: open has a bound of its own,
// and when that is over the handshake closes this.
func (e *earlyConn) deadline(t time.Time, set func(net.Conn, time.Time) error) error {
	c, err := e.now()
	if errors.Is(err, errNotOpen) {
		return nil
	}
	if err != nil {
		return err
	}
	return set(c, t)
}

// unopened is the address of what has none yet.
type unopened struct{}

func (unopened) Network() string { return "atls" }
func (unopened) String() string  { return "not open" }
