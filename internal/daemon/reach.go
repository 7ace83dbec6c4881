package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/atls-ws/atls-ws/internal/daemon/fleet"
	"github.com/atls-ws/atls-ws/internal/limit"
	"github.com/atls-ws/atls-ws/server"
)

const (
	serviceTimeout = 10 * time.Second // to connect to a device's service
	defaultDials   = 128              // connections to services of one device
)

// reach connects to services of devices, within the limits of a device.
type reach struct {
	server *server.Server
	fleet  *fleet.Fleet
	peers  *peers       // nil: there are no other nodes
	limits *limit.Peers // rates, shared with what the device itself opens
	dials  *limit.Peers // number of connections
	// wake queues a signal for a device that is waited for; its error is logged.
	wake func(ctx context.Context, device, service string, wait time.Duration)
}

// reached is a connection to a service of a device.
type reached struct {
	net.Conn // a *server.Stream, perhaps with a limited rate
	leave    func()
	failed   func(error) // is told of errors before the caller; may be nil
	once     sync.Once
}

// dial connects to a service of a device, here or at another node. It waits for
// a device that is not connected as long as wait. The caller owns the connection.
func (r *reach) dial(ctx context.Context, device, service string, wait time.Duration) (*reached, error) {
	return r.within(device, func() (net.Conn, error) { return r.connect(ctx, device, service, wait) })
}

// dialHere is dial for another node: the device is here, or it is not connected.
func (r *reach) dialHere(ctx context.Context, device, service string) (*reached, error) {
	return r.within(device, func() (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, serviceTimeout)
		defer cancel()
		return r.server.DialDevice(ctx, device, service)
	})
}

// within connects within the limits of the device.
func (r *reach) within(device string, connect func() (net.Conn, error)) (*reached, error) {
	leaveDials, ok := r.dials.Enter(device)
	if !ok {
		return nil, &server.RefusedError{Code: server.Busy, Text: fmt.Sprintf("%d connections to this device are open", r.dials.Conns)}
	}
	leaveLimits, _ := r.limits.Enter(device) // bounds rates alone
	leave := func() { leaveDials(); leaveLimits() }
	conn, err := connect()
	if err != nil {
		leave()
		return nil, err
	}
	return &reached{Conn: r.limits.Wrap(device, conn), leave: leave}, nil
}

func (r *reach) connect(ctx context.Context, device, service string, wait time.Duration) (net.Conn, error) {
	if wait > 0 {
		if !r.fleet.Online(device) {
			r.wake(ctx, device, service, wait)
		}
		waiting, cancel := context.WithTimeout(ctx, wait)
		err := r.fleet.Wait(waiting, device)
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.Is(err, context.DeadlineExceeded):
			return nil, &lateError{wait}
		case err != nil:
			return nil, err
		}
	}
	dialing, cancel := context.WithTimeout(ctx, serviceTimeout)
	conn, err := r.server.DialDevice(dialing, device, service)
	cancel()
	if r.peers != nil && errors.Is(err, server.ErrNotConnected) {
		return r.peers.connect(ctx, device, service)
	}
	return conn, err
}

// lateError is a server.ErrNotConnected after some waiting.
type lateError struct{ wait time.Duration }

func (e *lateError) Error() string { return fmt.Sprintf("it did not connect within %s", e.wait) }
func (e *lateError) Unwrap() error { return server.ErrNotConnected }

func (c *reached) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	return n, c.note(err)
}

func (c *reached) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	return n, c.note(err)
}

func (c *reached) note(err error) error {
	if err != nil && c.failed != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		c.failed(err)
	}
	return err
}

// CloseWrite passes the half-close on.
func (c *reached) CloseWrite() error { return c.Conn.(interface{ CloseWrite() error }).CloseWrite() }

// Reset passes a failure on.
func (c *reached) Reset() { c.Conn.(interface{ Reset() }).Reset() }

// Close ends the connection and makes room for another.
func (c *reached) Close() error {
	c.once.Do(c.leave)
	return c.Conn.Close()
}
