package client

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/atls-ws/atls-ws/internal/proto"
	"github.com/atls-ws/atls-ws/internal/session"
)

// The types that both ends of a session share.
type (
	// Session is an established inner session: Dial, Signal, Close, Done, Err.
	Session = session.Session
	// Stream is a connection to a service, with half-close.
	Stream = session.Stream
	// Mux is what this end answers to. It outlives sessions.
	Mux = session.Mux
	// Signal is a small message, answered by an ack or a refusal.
	Signal = session.Signal
	// SignalHandler answers a signal: nil acks it with the reply, an error refuses it.
	SignalHandler = session.SignalHandler
	// RefusedError is the server's no to a signal, a stream or the session.
	RefusedError = session.RefusedError
	// AlertError says that the server refused this device in the inner handshake.
	AlertError = session.AlertError
	// Streams is how many streams the server may have open; 0 is 256.
	Streams int
	// Applied is how far the signals that the server queues have been handled.
	Applied = session.Applied
	// Position is a place in the server's queue of signals.
	Position = session.Position
	// OuterReport is what the device met on the outer hop.
	OuterReport = session.OuterReport
	// OuterCert is one certificate of an OuterReport's chain.
	OuterCert = session.OuterCert
)

// Why a session ended or was not made; test with errors.Is.
var (
	ErrClosed   = session.ErrClosed
	ErrPeerGone = session.ErrPeerGone
	ErrDead     = session.ErrDead
	ErrDraining = session.ErrDraining
	ErrReplaced = session.ErrReplaced
)

// Refusal codes of a RefusedError.
const (
	Refused    = proto.Refused
	NotFound   = proto.NotFound
	NotAllowed = proto.NotAllowed
	Busy       = proto.Busy
	Expired    = proto.Expired
)

// AnySignal names the handler of the signals that have none of their own.
const AnySignal = session.AnySignal

// ErrNoSession says that a Client is not connected just now.
var ErrNoSession = errors.New("no session with the server")

// NewApplied makes an Applied that begins at a saved position and saves each new one.
var NewApplied = session.NewApplied

// Splice copies between two connections, both ways with half-close, until both
// directions have ended, and closes both.
var Splice = session.Splice

// FromContext returns the session that a signal handler's context belongs to.
var FromContext = session.FromContext

// Config says whom to connect to and how. URL and TLS are required. Dial and
// New clone it.
type Config struct {
	// URL of the server's carrier: https, wss, http or ws. An empty path is
	// /.well-known/atls.
	URL string
	// TLS is the INNER configuration: RootCAs (never the system's by default),
	// ServerName and Certificates (or GetClientCertificate) are required. It is
	// raised to TLS 1.3; ALPN is set. Without a ClientSessionCache, and with
	// Certificates, a Client has one of its own.
	TLS *tls.Config
	// Carrier is the way to carry the session; empty is CarrierAuto.
	Carrier Carrier
	// EarlyHello sends the ClientHello of the inner TLS behind the upgrade request,
	// without waiting for the answer, which saves a round trip. RFC 6455, 4.1, wants a
	// client to wait: it is for networks that are known to bear it. Where it fails,
	// CarrierAuto goes on with POST, as with whatever else a box does to a WebSocket.
	EarlyHello bool
	// Outer is the policy for the hop to whoever answers; nil reports what it meets.
	Outer *OuterConfig
	// Proxy picks the proxy for the outer connection (http, https, socks5); nil is
	// what HTTPS_PROXY, ALL_PROXY and NO_PROXY say.
	Proxy func(*http.Request) (*url.URL, error)
	// Mux holds the signals and services of this device; nil answers to nothing
	// until Client's OnSignal and Listen add some.
	Mux *Mux
	// Streams is how many streams the server may have open; 0 is 256.
	Streams int
	// Unread is how many bytes those may hold that nobody has read, at least 4 MiB;
	// 0 is 128 MiB. yamux may take twice that in memory. With less, the windows of
	// a far server are smaller, or its streams fewer.
	Unread int
	// Applied is how far this device has handled the signals that the server
	// queues; nil starts anew with the Config, which is right for a device
	// that keeps no state: a signal could be handled again after a restart.
	Applied *Applied
	// Software names the program in the server's list of devices.
	Software string
	// Stationary says that the machine neither sleeps nor moves: Run looks for
	// neither. It is for many clients in one process.
	Stationary bool
	// Logger gets one line per session life; nil is silence.
	Logger *slog.Logger
	// OnConnect is called by Run after a session is ready, before it is used.
	OnConnect func(*Session)
	// OnDisconnect is called by Run with the reason and the pause before the next try.
	OnDisconnect func(err error, retry time.Duration)

	postURL string // URL with an http or https scheme
	host    string // of URL
	// bootstrap is set by Bootstrap: the session is a probe, and says what the
	// outer chain is even when it verifies.
	bootstrap bool
}

func (c *Config) complete() (*Config, error) {
	if c == nil {
		return nil, errors.New("client: no configuration")
	}
	cc := *c
	u, err := parseURL(c.URL)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	cc.URL, cc.postURL, cc.host = u.String(), httpURL(u).String(), u.Hostname()
	if err := session.CheckClientTLS(c.TLS); err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	cc.TLS = resuming(c.TLS)
	switch cc.Carrier {
	case "":
		cc.Carrier = CarrierAuto
	case CarrierAuto, CarrierWebSocket, CarrierPOST:
	default:
		return nil, fmt.Errorf("client: carrier %q is not one of auto, websocket, post", cc.Carrier)
	}
	if cc.Outer, err = c.Outer.complete(); err != nil {
		return nil, err
	}
	if cc.Mux == nil {
		cc.Mux = new(Mux)
	}
	if cc.Applied == nil {
		cc.Applied = NewApplied(Position{}, nil)
	}
	if cc.Logger == nil {
		cc.Logger = slog.New(slog.DiscardHandler)
	}
	if cc.Software == "" {
		cc.Software = "atls-ws"
	}
	return &cc, nil
}

// ParseURL reads the URL of a server as Config takes it, and returns it with the
// scheme https or http and a path.
func ParseURL(s string) (*url.URL, error) {
	u, err := parseURL(s)
	if err != nil {
		return nil, err
	}
	return httpURL(u), nil
}

func parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, fmt.Errorf("URL: %w", err)
	}
	switch u.Scheme {
	case "http", "https", "ws", "wss":
	default:
		return nil, fmt.Errorf("URL %q: scheme must be https, wss, http or ws", s)
	}
	if u.Hostname() == "" {
		return nil, fmt.Errorf("URL %q has no host", s)
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = DefaultPath
	}
	return u, nil
}

// resuming clones an inner configuration for a Client that comes back: it
// resumes, which costs the server half. It is authenticated by the ticket then,
// so it does only while its certificate cannot change.
func resuming(c *tls.Config) *tls.Config {
	t := c.Clone()
	if t.ClientSessionCache == nil && len(t.Certificates) > 0 && t.GetClientCertificate == nil {
		t.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	}
	return t
}
