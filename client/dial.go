package client

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/atls-ws/atls-ws/internal/answer"
	"github.com/atls-ws/atls-ws/internal/session"
	"github.com/atls-ws/atls-ws/postconn"
	"github.com/atls-ws/atls-ws/wsconn"
)

// DefaultPath is where a server serves its carriers.
const DefaultPath = wsconn.DefaultPath

// CarrierError says that a carrier was not opened: what HTTP answered instead.
// StatusCode is 0 when nothing did.
type CarrierError = answer.Error

const (
	dialTimeout  = 10 * time.Second // TCP, outer TLS and the upgrade
	readyTimeout = 10 * time.Second // inner handshake to Ready
)

// timeoutError is a context.DeadlineExceeded that says what was waited for.
type timeoutError string

func (e timeoutError) Error() string        { return string(e) }
func (e timeoutError) Is(target error) bool { return target == context.DeadlineExceeded }
func (e timeoutError) Timeout() bool        { return true }

// Dial makes one session and returns after the server's Ready. The caller owns
// the session and closes it. ctx bounds the dialing, not the session; so do
// twenty seconds for each carrier.
func Dial(ctx context.Context, c *Config) (*Session, error) {
	cfg, err := c.complete()
	if err != nil {
		return nil, err
	}
	return connect(ctx, cfg, CarrierWebSocket, rand.Text())
}

// connect makes a session over the carrier that is ready first. Sessions of the
// same attempt do not replace each other on the server.
func connect(ctx context.Context, c *Config, first Carrier, attempt string) (*Session, error) {
	h := newHop(c)
	d := &dialer{cfg: c, hop: h, attempt: attempt}
	d.users.Store(1)
	defer d.release()
	switch c.Carrier {
	case CarrierWebSocket, CarrierPOST:
		return d.dial(ctx, c.Carrier)
	}
	return race(ctx, first, d.dial)
}

// dialer makes the sessions of one attempt, over one hop. The hop ends with the
// last of its users: connect, and the carriers.
type dialer struct {
	cfg     *Config
	hop     *hop
	attempt string
	users   atomic.Int32
}

func (d *dialer) release() {
	if d.users.Add(-1) == 0 {
		d.hop.Close()
	}
}

// carrier is an open carrier, which keeps its hop.
type carrier struct {
	net.Conn
	dialer *dialer
	closed atomic.Bool
}

// Cork and Uncork gather what is written, where the carrier can: see session.
func (c *carrier) Cork() {
	if ws, ok := c.Conn.(*wsconn.Conn); ok {
		ws.Cork()
	}
}

// Uncork ends Cork.
func (c *carrier) Uncork() {
	if ws, ok := c.Conn.(*wsconn.Conn); ok {
		ws.Uncork()
	}
}

// SetWriteBuffer is that of the connection, where the carrier is one.
func (c *carrier) SetWriteBuffer(n int) error {
	if ws, ok := c.Conn.(*wsconn.Conn); ok {
		return ws.SetWriteBuffer(n)
	}
	return nil
}

func (c *carrier) Close() error {
	err := c.Conn.Close()
	if !c.closed.Swap(true) {
		c.dialer.release()
	}
	return err
}

// dial makes a session over one carrier.
func (d *dialer) dial(ctx context.Context, kind Carrier) (*Session, error) {
	if kind == CarrierWebSocket && d.cfg.EarlyHello {
		return d.dialEarly(ctx)
	}
	conn, outer, err := d.open(ctx, kind, nil)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, timeoutError(fmt.Sprintf("no ready within %s", readyTimeout)))
	defer cancel()
	s, err := d.session(ctx, conn, kind, outer)
	// To open a POST carrier takes no I/O, and it has an address with its first answer.
	if _, answered := conn.LocalAddr().(*net.TCPAddr); !answered && kind == CarrierPOST && errors.Is(err, context.DeadlineExceeded) {
		err = d.hop.lookups.blame(&CarrierError{Op: "post", Err: timeoutError("no answer in time")})
		return nil, fmt.Errorf("carrier: %w", err)
	}
	return s, err
}

// session makes the session on a carrier. outer tells the state of its outer TLS.
func (d *dialer) session(ctx context.Context, conn net.Conn, kind Carrier, outer func() *tls.ConnectionState) (*Session, error) {
	_, late := conn.(*earlyConn)
	return session.Client(ctx, conn, &session.Config{
		TLS: d.cfg.TLS, Mux: d.cfg.Mux, Logger: d.cfg.Logger, Applied: d.cfg.Applied, Streams: d.cfg.Streams, Unread: d.cfg.Unread,
		Hello: func() session.Hello {
			return session.Hello{
				Software: d.cfg.Software, Carrier: string(kind), Attempt: d.attempt,
				Probe: d.cfg.bootstrap, Outer: d.hop.reported(outer()),
			}
		},
		OpensLate: late,
	})
}

// open opens a carrier, and tells how to learn the state of its outer TLS, which
// a POST carrier has only after its first answer. early is a first message of a
// WebSocket, or nil.
func (d *dialer) open(ctx context.Context, kind Carrier, early []byte) (*carrier, func() *tls.ConnectionState, error) {
	var conn interface {
		net.Conn
		ConnectionState() *tls.ConnectionState
	}
	var err error
	if kind == CarrierPOST {
		conn, err = postconn.Dial(ctx, d.cfg.postURL, &postconn.DialOptions{Transport: d.hop.Transport})
	} else {
		ctx, cancel := context.WithTimeoutCause(ctx, dialTimeout, timeoutError(fmt.Sprintf("no carrier within %s", dialTimeout)))
		defer cancel()
		conn, err = wsconn.Dial(ctx, d.cfg.URL, &wsconn.DialOptions{Transport: d.hop.Transport, Early: early})
	}
	if r := d.hop.met(); r != nil && len(r.Chain) > 0 {
		d.cfg.Logger.Info("outer certificate", "subject", r.Chain[0].Subject, "issuer", r.Chain[0].Issuer, "verified", r.Verified, "sha256", r.Chain[0].SHA256)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("carrier: %w", d.hop.lookups.blame(err))
	}
	d.users.Add(1)
	return &carrier{Conn: conn, dialer: d}, conn.ConnectionState, nil
}
