// Package forward makes a service of the other end reachable on a local port:
// TCP, a unix socket, UDP, or SOCKS5 in front of the service of a proxy. The
// operator's verb, the server's listeners and the device use it.
package forward

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/session"
	"github.com/atls-ws/atls-ws/internal/udp"
)

const (
	maxConns    = 256 // of one port at once; more wait in the system's backlog
	acceptPause = 100 * time.Millisecond
)

// Dial connects to the service. It waits for a lost peer as long as it thinks
// right; it is given a ctx that ends with the port.
type Dial func(ctx context.Context) (net.Conn, error)

// Port is a local port that leads to a service. Its owner serves it.
type Port struct {
	dial  Dial
	log   *slog.Logger
	front func(ctx context.Context, local net.Conn) (net.Conn, error) // nil: dial alone

	tcp net.Listener // of TCP and unix
	udp *net.UDPConn
}

// Listen listens at what config.ParseListen reads. log is required; it gets a
// line for each connection that cannot be made.
func Listen(ctx context.Context, listen string, dial Dial, log *slog.Logger) (*Port, error) {
	network, address, err := config.ParseListen(listen)
	if err != nil {
		return nil, err
	}
	p := &Port{dial: dial, log: log}
	var lc net.ListenConfig
	switch network {
	case "udp":
		var pc net.PacketConn
		if pc, err = lc.ListenPacket(ctx, network, address); err == nil {
			p.udp = pc.(*net.UDPConn)
		}
	case "unix":
		p.tcp, err = listenUnix(ctx, address)
	default:
		p.tcp, err = lc.Listen(ctx, network, address)
	}
	if err != nil {
		return nil, &ListenError{listen, cause(err)}
	}
	return p, nil
}

// ListenError says that a port cannot be had.
type ListenError struct {
	Listen string
	Err    error
}

// Error names the port.
func (e *ListenError) Error() string { return fmt.Sprintf("listen at %s: %v", e.Listen, e.Err) }

// Unwrap returns Err.
func (e *ListenError) Unwrap() error { return e.Err }

// Next says what to do about it.
func (e *ListenError) Next() string {
	switch {
	case errors.Is(e.Err, syscall.EADDRINUSE):
		return "end the program that listens there, or choose another port"
	case errors.Is(e.Err, syscall.EACCES):
		return "ports below 1024 need the capability CAP_NET_BIND_SERVICE, and a socket a folder that you can write to"
	}
	return "give an address of this machine, such as :8022, udp:127.0.0.1:5353 or unix:/run/x.sock"
}

// listenUnix replaces a socket that a dead process left. The folder decides who
// can connect, and the socket itself is the user's alone.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() == fs.ModeSocket {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
		if err == nil {
			_ = conn.Close()
			return nil, syscall.EADDRINUSE
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			_ = os.Remove(path)
		}
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

// cause is the system's own word.
func cause(err error) error {
	var sys syscall.Errno
	if errors.As(err, &sys) {
		return sys
	}
	return err
}

// Addr is where the port listens.
func (p *Port) Addr() net.Addr {
	if p.udp != nil {
		return p.udp.LocalAddr()
	}
	return p.tcp.Addr()
}

// Close ends a port that is not served.
func (p *Port) Close() {
	if p.udp != nil {
		_ = p.udp.Close()
		return
	}
	_ = p.tcp.Close()
}

// Serve takes connections until ctx ends, which ends them too. Nothing of the
// port still runs when it returns. The error is nil when ctx has ended.
func (p *Port) Serve(ctx context.Context) error {
	if p.udp != nil {
		return (&udp.Listener{Conn: p.udp, Dial: p.dial, Logger: p.log}).Serve(ctx)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = p.tcp.Close() })()
	free := make(chan struct{}, maxConns)
	for {
		select {
		case free <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := p.tcp.Accept()
		if err != nil {
			<-free
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			// Out of files, or a peer that was gone at once: the port stays.
			p.log.Warn("no connection taken", "err", err)
			pause(ctx)
			continue
		}
		wg.Go(func() {
			defer func() { <-free }()
			p.serve(ctx, conn)
		})
	}
}

// serve joins one connection with the service.
func (p *Port) serve(ctx context.Context, local net.Conn) {
	defer context.AfterFunc(ctx, func() { cut(local) })()
	connect := p.front
	if connect == nil {
		connect = func(ctx context.Context, _ net.Conn) (net.Conn, error) { return p.dial(ctx) }
	}
	remote, err := connect(ctx, local)
	if err != nil {
		if ctx.Err() == nil { // first: whoever sees the reset finds the reason
			p.log.Warn("no connection", "err", err)
		}
		if answered := (*answeredError)(nil); !errors.As(err, &answered) {
			cut(local)
		}
		_ = local.Close()
		return
	}
	defer context.AfterFunc(ctx, func() { cut(remote) })()
	if err := session.Splice(local, remote); err != nil && ctx.Err() == nil {
		p.log.Debug("connection broke", "err", err)
	}
}

// cut ends a connection, as a failure where its kind can.
func cut(conn net.Conn) {
	switch c := conn.(type) {
	case interface{ Reset() }:
		c.Reset()
	case *net.TCPConn:
		_ = c.SetLinger(0) // RST: nobody takes it for an orderly end
	}
	_ = conn.Close()
}

// answeredError is a reason that the local end has been told in its protocol.
type answeredError struct{ error }

func (e *answeredError) Unwrap() error { return e.error }

func pause(ctx context.Context) {
	t := time.NewTimer(acceptPause)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
