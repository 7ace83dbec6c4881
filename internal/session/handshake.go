package session

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/atls-ws/atls-ws/internal/proto"
)

// maxBeforeReady bounds what a peer can send before the session is ready.
const maxBeforeReady = 64 << 10

// Config is what both ends need for sessions: a server makes one for all of
// them. TLS is the INNER configuration; the first session tightens a clone of
// it, which the others share, and with it the ticket keys. Zero values of the
// rest have the documented defaults. It must not be changed once it is in use.
type Config struct {
	TLS       *tls.Config
	Mux       *Mux          // nil: answers to nothing
	Logger    *slog.Logger  // nil: silence
	Streams   int           // the peer's open streams; 0: DefaultStreams
	Keepalive time.Duration // server: interval of pings; 0: DefaultKeepalive. The client learns it

	Hello   func() Hello // client: what it says of itself, asked for when the handshake is done; nil: nothing
	Applied *Applied     // client: what it has handled; nil: signals that come again are handled again
	Queue   string       // server: names the queue that signals with a Seq come from
	HTTP    bool         // server: take peers of atls-http/1 too
	// Admit is the server's decision on a peer whose certificate is verified. It
	// returns the device's id, or an error: a *RefusedError goes to the peer as it
	// is, any other as not allowed with its text. It may complete the Hello.
	Admit func(state tls.ConnectionState, hello *Hello) (device string, err error)

	// Turns, if set, bounds how many handshakes of a server compute at once. Accept
	// and Session are called in a turn, and let go of it while they wait.
	Turns Turns

	once   sync.Once
	shared *Config // completed and tightened, for all sessions of a server
}

// Turns are handed out to handshakes.
type Turns interface {
	Take()
	Give()
}

// complete returns a copy with the defaults, and t for TLS.
func (c *Config) complete(t *tls.Config) *Config {
	cc := &Config{
		TLS: t, Mux: c.Mux, Logger: c.Logger, Streams: c.Streams, Keepalive: c.Keepalive,
		Hello: c.Hello, Applied: c.Applied, Queue: c.Queue, HTTP: c.HTTP, Admit: c.Admit, Turns: c.Turns,
	}
	if cc.Mux == nil {
		cc.Mux = new(Mux)
	}
	if cc.Logger == nil {
		cc.Logger = slog.New(slog.DiscardHandler)
	}
	if cc.Streams <= 0 {
		cc.Streams = DefaultStreams
	}
	if cc.Keepalive <= 0 {
		cc.Keepalive = DefaultKeepalive
	}
	return cc
}

// forServer is complete for a server, once: a tls.Config of its own would cost
// each session 1.5 KiB, and no ticket of one would be good for the next.
func (c *Config) forServer() *Config {
	c.once.Do(func() { c.shared = c.complete(tightenServer(c.TLS, c.protocols())) })
	return c.shared
}

func (c *Config) protocols() []string {
	if c.HTTP {
		return []string{proto.ALPNMux, proto.ALPNHTTP}
	}
	return []string{proto.ALPNMux}
}

// tighten clones an inner configuration and sets what is not negotiable.
func tighten(c *tls.Config, protocols ...string) *tls.Config {
	t := c.Clone()
	t.MinVersion, t.MaxVersion = tls.VersionTLS13, 0
	t.NextProtos = protocols
	t.DynamicRecordSizingDisabled = true
	return t
}

// CheckClientTLS says what an inner client configuration lacks.
func CheckClientTLS(c *tls.Config) error {
	switch {
	case c == nil:
		return errors.New("inner TLS configuration is missing")
	case c.InsecureSkipVerify:
		return errors.New("inner TLS configuration: InsecureSkipVerify would trust any middlebox")
	case c.RootCAs == nil:
		return errors.New("inner TLS configuration: RootCAs is missing: the system's roots must not decide whom the device trusts")
	case c.ServerName == "":
		return errors.New("inner TLS configuration: ServerName is missing")
	case len(c.Certificates) == 0 && c.GetClientCertificate == nil:
		return errors.New("inner TLS configuration: the device's certificate is missing")
	}
	return nil
}

// CheckServerTLS says what an inner server configuration lacks.
func CheckServerTLS(c *tls.Config) error {
	switch {
	case c == nil:
		return errors.New("inner TLS configuration is missing")
	case c.ClientCAs == nil && c.GetConfigForClient == nil:
		return errors.New("inner TLS configuration: ClientCAs is missing: nobody's certificate could be verified")
	case len(c.Certificates) == 0 && c.GetCertificate == nil && c.GetConfigForClient == nil:
		return errors.New("inner TLS configuration: the server's certificate is missing")
	}
	return nil
}

// Client makes the device's end of a session on conn, which it then owns: on an
// error it is closed. It returns after the server's Ready. ctx bounds the
// making, not the session.
func Client(ctx context.Context, conn net.Conn, c *Config) (*Session, error) {
	if err := CheckClientTLS(c.TLS); err != nil {
		_ = conn.Close()
		return nil, err
	}
	t := tighten(c.TLS, proto.ALPNMux)
	cfg := c.complete(t)
	limited := newLimitedConn(conn)
	if t.GetClientCertificate == nil {
		// crypto/tls holds back a certificate that the server's CA list does not
		// name; the server could then only say that none came.
		t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &t.Certificates[0], nil }
	}
	tc := tls.Client(limited, t)
	var hello Hello
	var ready *proto.Ready
	err := greet(ctx, conn, func() error {
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

// Server makes the server's end of a session on conn, which it then owns: on
// an error it is closed, after the peer has been told. ctx bounds the making,
// not the session.
func Server(ctx context.Context, conn net.Conn, c *Config) (*Session, error) {
	in, err := Accept(ctx, conn, c)
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

// Accept does the server's inner handshake on conn, which it then owns. ctx
// bounds it.
func Accept(ctx context.Context, conn net.Conn, c *Config) (*Inner, error) {
	if err := CheckServerTLS(c.TLS); err != nil {
		_ = conn.Close()
		return nil, err
	}
	cfg := c.forServer()
	in := &Inner{cfg: cfg, carrier: conn, limited: newLimitedConn(conn), Admit: cfg.Admit}
	in.limited.turns = cfg.Turns
	in.conn = tls.Server(in.limited, cfg.TLS)
	err := greet(ctx, conn, func() error {
		if err := in.conn.HandshakeContext(ctx); err != nil {
			return fmt.Errorf("inner handshake: %w", remoteAlert(err))
		}
		if p := in.protocol(); !slices.Contains(cfg.protocols(), p) {
			return fmt.Errorf("inner handshake: client negotiated ALPN %q, want one of %q", p, cfg.protocols())
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
func tightenServer(c *tls.Config, protocols []string) *tls.Config {
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
			l := &tightened{of: c, to: tightenServer(c, protocols)}
			l.to.GetConfigForClient = nil
			latest.Store(l)
			return l.to, nil
		}
	}
	return t
}

// tightened remembers a configuration and what tightenServer made of it.
type tightened struct{ of, to *tls.Config }

func (in *Inner) protocol() string { return in.conn.ConnectionState().NegotiatedProtocol }

// IsHTTP says whether the peer negotiated atls-http/1.
func (in *Inner) IsHTTP() bool { return in.protocol() == proto.ALPNHTTP }

// HTTP admits the peer. The caller owns the connection, on which the peer sends
// HTTP/1.1 requests. ctx bounds the admission.
func (in *Inner) HTTP(ctx context.Context) (conn *tls.Conn, device string, err error) {
	if in.Admit != nil {
		err = greet(ctx, in.carrier, func() (err error) {
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
	ready := &proto.Ready{Session: newID(), Keepalive: cfg.Keepalive, Streams: cfg.Streams, Queue: cfg.Queue}
	err := greet(ctx, in.carrier, func() error {
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
// fails or panics. The error is ctx's, and its cause, when that is why.
func greet(ctx context.Context, conn net.Conn, f func() error) error {
	returned := false
	defer func() {
		if !returned { // f calls the user's code
			_ = conn.Close()
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
	_ = conn.Close()
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

// limitedConn fails reads after a number of bytes; a negative number is no limit.
type limitedConn struct {
	net.Conn
	left   atomic.Int64
	arrive arrival // Conn, if it can say what has arrived
	poll   bool    // reads do not wait; set by who reads

	turns Turns         // before ready: not held while the network is waited for; may be nil
	wrote time.Time     // before ready: when Conn was last written to, zero after an answer
	rtt   time.Duration // the shortest time to an answer before ready
}

// arrival is a carrier that can be read without waiting.
type arrival interface {
	// ReadArrived reads what has arrived, which may be nothing.
	ReadArrived(p []byte) (int, error)
	// NotifyArrival calls fn once, when something can be read. It does not, and
	// returns false, when that is so already. fn must not wait.
	NotifyArrival(fn func()) bool
}

func newLimitedConn(conn net.Conn) *limitedConn {
	c := &limitedConn{Conn: conn}
	c.left.Store(maxBeforeReady)
	c.arrive, _ = conn.(arrival)
	return c
}

func (c *limitedConn) Read(p []byte) (int, error) {
	if c.poll {
		n, err := c.arrive.ReadArrived(p)
		if n == 0 && err == nil {
			err = errNothingYet
		}
		return n, err
	}
	left := c.left.Load()
	if left < 0 {
		return c.Conn.Read(p)
	}
	if left == 0 {
		return 0, fmt.Errorf("more than %d bytes before ready", maxBeforeReady)
	}
	if c.turns != nil {
		c.turns.Give()
		defer c.turns.Take()
	}
	n, err := c.Conn.Read(p[:min(int64(len(p)), left)])
	c.left.CompareAndSwap(left, left-int64(n))
	if took := time.Since(c.wrote); !c.wrote.IsZero() && (c.rtt == 0 || took < c.rtt) {
		c.rtt = took
	}
	c.wrote = time.Time{}
	return n, err
}

// Write is noted before ready, when one goroutine reads and writes.
func (c *limitedConn) Write(p []byte) (int, error) {
	if c.left.Load() < 0 {
		return c.Conn.Write(p)
	}
	c.wrote = time.Now()
	if c.turns != nil {
		c.turns.Give()
		defer c.turns.Take()
	}
	return c.Conn.Write(p)
}

// errNothingYet is a temporary net.Error, so that crypto/tls reads on after it,
// also in the middle of a record.
var errNothingYet net.Error = nothingYet{}

type nothingYet struct{}

func (nothingYet) Error() string   { return "nothing has arrived" }
func (nothingYet) Timeout() bool   { return true }
func (nothingYet) Temporary() bool { return true }

func newID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
