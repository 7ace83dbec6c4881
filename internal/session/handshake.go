package session

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/atls-ws/atls-ws/internal/proto"
)

// Client makes the device's end of a session on conn, which it then owns: on an
// error it is closed. It returns after the server's Ready. ctx bounds the
// making, not the session.
func Client(ctx context.Context, conn net.Conn, c *Config) (*Session, error) {
	if err := CheckClientTLS(c.TLS); err != nil {
		_ = conn.Close()
		return nil, err
	}
	t := tighten(c.TLS, proto.ALPNMux)
	cfg := c.complete()
	limited := newLimitedConn(conn)
	if t.GetClientCertificate == nil {
		// crypto/tls holds back a certificate that the server's CA list does not
		// name; the server could then only say that none came.
		t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &t.Certificates[0], nil }
	}
	tc := tls.Client(limited, t)
	var hello Hello
	var ready *proto.Ready
	err := greet(ctx, conn, nil, func() error {
		if err := tc.HandshakeContext(ctx); err != nil {
			return fmt.Errorf("inner handshake: %w", remoteAlert(err))
		}
		if p := tc.ConnectionState().NegotiatedProtocol; p != proto.ALPNMux {
			return fmt.Errorf("inner handshake: server negotiated ALPN %q, want %q", p, proto.ALPNMux)
		}
		if cfg.Hello != nil {
			hello = cfg.Hello()
		}
		hello.Version = proto.Version
		hello.Services = cfg.Mux.Services()
		if cfg.Applied != nil {
			if p := cfg.Applied.position(); p.Queue != "" {
				hello.Applied = &p
			}
		}
		asked := time.Now()
		err := proto.WriteJSON(tc, &hello)
		if errors.Is(err, proto.ErrTooLarge) && hello.Outer != nil {
			hello.Outer = hello.Outer.WithoutDER() // the server can do without
			err = proto.WriteJSON(tc, &hello)
		}
		if err != nil {
			return fmt.Errorf("hello: %w", remoteAlert(err))
		}
		var g proto.Greeting
		if err := proto.ReadJSON(tc, &g); err != nil {
			return fmt.Errorf("waiting for ready: %w", remoteAlert(err))
		}
		if r := g.Refused; r != nil {
			return &RefusedError{r.Code, r.Text, r.RetryAfter}
		}
		if g.Ready == nil {
			return errors.New("waiting for ready: the server sent neither ready nor a refusal")
		}
		ready = g.Ready
		// Either may hold what the server took beside the way, for a turn or to decide.
		if took := max(time.Since(asked), 1); c.OpensLate || limited.rtt == 0 || took < limited.rtt {
			limited.rtt = took
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	limited.left.Store(-1)
	if k := ready.Keepalive; k >= time.Second && k <= 5*time.Minute {
		cfg.Keepalive = k // cfg is this session's alone
	}
	return newSession(cfg, tc, limited, true, ready, hello), nil
}

// Server makes the server's end of one session on conn, which it then owns: on
// an error it is closed, after the peer has been told. ctx bounds the making,
// not the session.
func Server(ctx context.Context, conn net.Conn, c *Config) (*Session, error) {
	a, err := NewAcceptor(c)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	in, err := a.Accept(ctx, conn, nil)
	if err != nil {
		return nil, err
	}
	return in.Session(ctx)
}

// Inner is a verified inner TLS connection on the server, before it is known
// what it will be. Session or HTTP makes it that, and takes it over.
type Inner struct {
	// Admit is Config's, unless it is set to what is to decide on this peer.
	Admit func(state tls.ConnectionState, hello *Hello) (device string, err error)

	cfg     *Config
	conn    *tls.Conn
	limited *limitedConn
	carrier net.Conn
}

func (in *Inner) protocol() string { return in.conn.ConnectionState().NegotiatedProtocol }

// IsHTTP says whether the peer negotiated atls-http/1.
func (in *Inner) IsHTTP() bool { return in.protocol() == proto.ALPNHTTP }

// HTTP admits the peer. The caller owns the connection, on which the peer sends
// HTTP/1.1 requests. ctx bounds the admission.
func (in *Inner) HTTP(ctx context.Context) (conn *tls.Conn, device string, err error) {
	if in.Admit != nil {
		err = greet(ctx, in.carrier, in.limited.turn, func() (err error) {
			device, err = in.Admit(in.conn.ConnectionState(), &Hello{})
			return err
		})
		if err != nil {
			return nil, "", err
		}
	}
	in.limited.left.Store(-1)
	return in.conn, device, nil
}

// Session hears the peer's Hello and answers it. On an error the connection is
// closed, after the peer has been told. ctx bounds the making, not the session.
func (in *Inner) Session(ctx context.Context) (*Session, error) {
	cfg, tc := in.cfg, in.conn
	var hello Hello
	ready := &proto.Ready{Session: newID(), Keepalive: cfg.Keepalive, Queue: cfg.Queue}
	err := greet(ctx, in.carrier, in.limited.turn, func() error {
		if p := in.protocol(); p != proto.ALPNMux {
			return fmt.Errorf("client negotiated ALPN %q, want %q", p, proto.ALPNMux)
		}
		err := proto.ReadJSON(tc, &hello)
		switch {
		case errors.Is(err, proto.ErrTooLarge), errors.Is(err, proto.ErrMalformed):
			err = refuse(tc, &RefusedError{Code: proto.Malformed, Text: "hello: " + err.Error()})
		case err != nil:
			err = fmt.Errorf("waiting for hello: %w", remoteAlert(err))
		case hello.Version != proto.Version:
			err = refuse(tc, &RefusedError{Code: proto.Malformed, Text: fmt.Sprintf("hello of version %d, want %d", hello.Version, proto.Version)})
		}
		if err != nil {
			return err
		}
		if in.Admit != nil {
			if ready.Device, err = in.Admit(tc.ConnectionState(), &hello); err != nil {
				return refuse(tc, err)
			}
		}
		ready.Streams = cfg.streams(cfg.windowFor(in.limited.rtt))
		ready.Time = time.Now()
		if o := hello.Outer; o != nil && o.Compared {
			ready.Intercepted = &o.Intercepted
		}
		if err := proto.WriteJSON(tc, &proto.Greeting{Ready: ready}); err != nil {
			return fmt.Errorf("ready: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	in.limited.left.Store(-1)
	return newSession(cfg, tc, in.limited, false, ready, hello), nil
}

// greet runs f with ctx bounding its reads and writes, and closes conn when it
// fails or panics. The error is ctx's, and its cause, when that is why. turn, which
// may be nil, is not held while conn closes: that may wait for the peer.
func greet(ctx context.Context, conn net.Conn, turn Turn, f func() error) error {
	end := func() {
		if turn != nil {
			defer turn.Aside()()
		}
		_ = conn.Close()
	}
	returned := false
	defer func() {
		if !returned { // f calls the user's code
			end()
		}
	}()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err := f()
	returned = true
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err == nil {
		return nil
	}
	if ended := ctx.Err(); ended != nil && !errors.Is(err, ended) {
		err = fmt.Errorf("%w: %w", err, ended)
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	end()
	return err
}

// refuse tells the peer no and returns why.
func refuse(w io.Writer, err error) error {
	r := &RefusedError{}
	if !errors.As(err, &r) {
		r = &RefusedError{Code: proto.NotAllowed, Text: err.Error()}
	}
	if werr := proto.WriteJSON(w, &proto.Greeting{Refused: &proto.Refusal{Code: r.Code, Text: r.Text, RetryAfter: r.RetryAfter}}); werr != nil {
		return fmt.Errorf("%w (and could not be told: %w)", r, werr)
	}
	return r
}

// AlertError says that the peer ended the inner handshake with a TLS alert:
// what it did not like is this end's certificate or offer.
type AlertError struct{ Err error }

func (e *AlertError) Error() string { return "the peer refused: " + e.Err.Error() }

// Unwrap returns crypto/tls's error.
func (e *AlertError) Unwrap() error { return e.Err }

// remoteAlert marks the errors that crypto/tls makes of the peer's alerts.
func remoteAlert(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" || err != nil && strings.HasPrefix(err.Error(), "remote error: tls:") {
		return &AlertError{err}
	}
	return err
}

func newID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
