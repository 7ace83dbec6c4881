package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"github.com/atls-ws/atls-ws/wsconn"
)

// Listener makes an outer TLS listener for an http.Server that serves s. Its
// handshakes take turns with the inner ones, which come first: in a storm, when
// all devices come at once, those that have come far get on, and one that would
// wait for longer than it has patience is closed before anything was spent on it.
// l and outer are taken over: to close the Listener closes l and ends the
// handshakes. Errors of handshakes are logged at Debug.
func (s *Server) Listener(l net.Listener, outer *tls.Config) net.Listener {
	t := &tlsListener{Listener: wsconn.Listener(l), s: s, outer: outer, ready: make(chan net.Conn), done: make(chan struct{})}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.wg.Go(t.run)
	return t
}

type tlsListener struct {
	net.Listener
	s     *Server
	outer *tls.Config

	ready  chan net.Conn
	done   chan struct{} // closed when err is set
	err    error
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func (t *tlsListener) Accept() (net.Conn, error) {
	select {
	case c := <-t.ready:
		return c, nil
	case <-t.done:
		return nil, t.err
	}
}

// Close waits for the handshakes that it ends.
func (t *tlsListener) Close() error {
	err := t.Listener.Close()
	t.cancel()
	t.wg.Wait()
	return err
}

func (t *tlsListener) run() {
	var said time.Time
	for {
		c, err := t.Listener.Accept()
		if err != nil {
			if temporary, ok := err.(interface{ Temporary() bool }); ok && temporary.Temporary() && t.ctx.Err() == nil { //nolint:errorlint // as net gives it
				if time.Since(said) > time.Minute {
					said = time.Now()
					t.s.cfg.Logger.Warn("no connection can be accepted now", "err", err)
				}
				pause(t.ctx)
				continue
			}
			t.err = err
			close(t.done)
			return
		}
		t.wg.Go(func() { t.handshake(c) })
	}
}

// handshake hands over a connection whose TLS is ready, or closes it.
func (t *tlsListener) handshake(raw net.Conn) {
	c, err := t.secure(raw)
	if err != nil {
		t.s.cfg.Logger.Debug("outer handshake", "remote", raw.RemoteAddr(), "err", err)
		sayHTTPS(raw, err)
		_ = raw.Close()
		return
	}
	select {
	case t.ready <- c:
	case <-t.ctx.Done():
		_ = c.Close()
	}
}

// secure does the handshake, in turns.
func (t *tlsListener) secure(raw net.Conn) (c *tls.Conn, err error) {
	defer func() { // as net/http does it: what chooses a certificate is a program's own
		if p := recover(); p != nil {
			t.s.cfg.Logger.Error("an outer handshake panicked", "remote", raw.RemoteAddr(), "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	ctx, cancel := context.WithTimeout(t.ctx, 2*t.s.cfg.Limits.ReadyTimeout)
	defer cancel()
	turn := t.s.queue(ctx)
	if turn == nil {
		return nil, errLate
	}
	defer turn.Leave()
	defer turn.Give()
	below := &inTurns{Conn: raw, turn: turn}
	c = tls.Server(below, t.outer)
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	below.turn = nil
	return c, nil
}

// sayHTTPS answers a client that speaks HTTP where TLS is spoken, as net/http does.
func sayHTTPS(raw net.Conn, err error) {
	var wrong tls.RecordHeaderError
	if !errors.As(err, &wrong) || wrong.Conn == nil {
		return
	}
	switch string(wrong.RecordHeader[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO":
		_ = raw.SetWriteDeadline(time.Now().Add(byeTimeout))
		_, _ = io.WriteString(raw, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
	}
}

// inTurns is a connection below a handshake: no turn is held while it waits.
type inTurns struct {
	net.Conn
	turn *turn // nil when the handshake is over
}

// NetConn is the connection below.
func (c *inTurns) NetConn() net.Conn { return c.Conn }

func (c *inTurns) Read(p []byte) (int, error) {
	if c.turn != nil {
		defer c.turn.Aside()()
	}
	return c.Conn.Read(p)
}

func (c *inTurns) Write(p []byte) (int, error) {
	if c.turn != nil {
		defer c.turn.Aside()()
	}
	return c.Conn.Write(p)
}
