package session

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"sync/atomic"

	"github.com/atls-ws/atls-ws/internal/proto"
)

// Acceptor makes the server's end of sessions. They share one configuration: a
// tls.Config of its own would cost each 1.5 KiB, and no ticket of one would be
// good for the next. All methods may be called from any goroutine.
type Acceptor struct {
	cfg  *Config
	mux  *tls.Config // for peers of atls-mux/1 alone
	http *tls.Config // while the service of atls-http/1 is listened on
}

// NewAcceptor checks the configuration. It does no I/O.
func NewAcceptor(c *Config) (*Acceptor, error) {
	if err := CheckServerTLS(c.TLS); err != nil {
		return nil, err
	}
	a := &Acceptor{cfg: c.complete()}
	a.mux = tightenServer(c.TLS, proto.ALPNMux)
	if c.HTTP != "" {
		a.http = tightenServer(c.TLS, proto.ALPNMux, proto.ALPNHTTP)
		if c.Guests {
			a.http = withGuests(a.http)
		}
	}
	return a, nil
}

// SetTicketKeys replaces the keys of session tickets: the first encrypts new
// ones, all decrypt. Without it they are the Acceptor's own, made anew each day.
func (a *Acceptor) SetTicketKeys(keys [][32]byte) {
	a.mux.SetSessionTicketKeys(keys)
	if a.http != nil {
		a.http.SetSessionTicketKeys(keys)
	}
}

func (a *Acceptor) tls() *tls.Config {
	if a.http != nil && a.cfg.Mux.listener(a.cfg.HTTP) != nil {
		return a.http
	}
	return a.mux
}

// Accept does the server's inner handshake on conn, which it then owns: on an
// error it is closed. ctx bounds it. turn is nil, or the handshake's, in which
// Accept, and then Inner.Session, are called: they let go of it while they wait.
func (a *Acceptor) Accept(ctx context.Context, conn net.Conn, turn Turn) (*Inner, error) {
	t := a.tls()
	in := &Inner{cfg: a.cfg, carrier: conn, limited: newLimitedConn(conn), Admit: a.cfg.Admit}
	in.limited.turn = turn
	in.conn = tls.Server(in.limited, t)
	err := greet(ctx, conn, turn, func() error {
		if err := in.conn.HandshakeContext(ctx); err != nil {
			return fmt.Errorf("inner handshake: %w", remoteAlert(err))
		}
		if p := in.protocol(); !slices.Contains(t.NextProtos, p) {
			return fmt.Errorf("inner handshake: client negotiated ALPN %q, want one of %q", p, t.NextProtos)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return in, nil
}

// tightenServer is tighten for a server. What GetConfigForClient returns is
// tightened too.
func tightenServer(c *tls.Config, protocols ...string) *tls.Config {
	t := tighten(c, protocols...)
	t.ClientAuth = tls.RequireAndVerifyClientCert
	if get := t.GetConfigForClient; get != nil {
		var latest atomic.Pointer[tightened]
		t.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			c, err := get(h)
			if c == nil || err != nil {
				return nil, err
			}
			if l := latest.Load(); l != nil && l.of == c {
				return l.to, nil // sessions share what is the same until a reload
			}
			l := &tightened{of: c, to: tightenServer(c, protocols...)}
			l.to.GetConfigForClient = nil
			latest.Store(l)
			return l.to, nil
		}
	}
	return t
}

// tightened remembers a configuration and what tightenServer made of it.
type tightened struct{ of, to *tls.Config }
