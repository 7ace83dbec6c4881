package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/atls-ws/atls-ws/internal/proto"
	"github.com/atls-ws/atls-ws/internal/session"
	"github.com/atls-ws/atls-ws/wsconn"
)

// The types that both ends of a session share.
type (
	// Session is an established inner session with a device.
	Session = session.Session
	// Stream is a connection to a service, with half-close.
	Stream = session.Stream
	// Mux is what this end answers to. It outlives sessions.
	Mux = session.Mux
	// Signal is a small message, answered by an ack or a refusal.
	Signal = session.Signal
	// SignalHandler answers a signal: nil acks it with the reply, an error refuses it.
	SignalHandler = session.SignalHandler
	// RefusedError is the device's no to a signal or a stream.
	RefusedError = session.RefusedError
	// AlertError says that the device refused this server in the inner handshake.
	AlertError = session.AlertError
	// Hello is what a device said of itself.
	Hello = session.Hello
	// OuterReport is what a device met on the outer hop.
	OuterReport = session.OuterReport
)

// Why a session ended; test with errors.Is.
var (
	ErrClosed   = session.ErrClosed
	ErrPeerGone = session.ErrPeerGone
	ErrDead     = session.ErrDead
	// ErrBeforeReady is why Hooks.Refused is told of a peer that sent too much.
	ErrBeforeReady = session.ErrBeforeReady
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

// DefaultPath is where devices look for the server.
const DefaultPath = wsconn.DefaultPath

// ServiceHTTP is the service at which Config.Handler is hosted.
const ServiceHTTP = "http"

// ErrNotConnected says that the device has no session here just now.
var ErrNotConnected = errors.New("device is not connected")

// Splice copies between two connections, both ways with half-close, until both
// directions have ended, and closes both.
var Splice = session.Splice

// FromContext returns the session that a signal handler's or a hosted request's
// context belongs to.
var FromContext = session.FromContext

// Config says who the server is and what it offers. TLS is required; New clones it.
type Config struct {
	// TLS is the INNER configuration: a certificate that is not the public web
	// one, and ClientCAs. It is raised to TLS 1.3 with client certificates
	// required; ALPN is set. Revocation belongs into VerifyConnection.
	TLS *tls.Config
	// Identify takes the device's id from its verified certificate; nil is
	// Identify. An id is 1 to 255 bytes of printable ASCII without space; a
	// certificate that gives another is refused.
	Identify func(tls.ConnectionState) (device string, err error)
	// Admit decides on a device that connects, after Identify; nil admits all. An
	// error is told to the device as not allowed, with its text, a *RefusedError
	// as it is. Server.Recheck asks it again.
	Admit func(device string, state tls.ConnectionState) error
	// Mux holds the signals and services for devices; nil answers to none. A peer
	// that negotiates atls-http/1 is a connection to the service http.
	Mux *Mux
	// Queue names the queue that signals with a Seq come from, so that a device
	// can tell which of them it has handled; empty: there is none.
	Queue string
	// Handler is hosted at the service http of the inner session: its requests'
	// TLS is the INNER state, and FromContext gives their session. Setting it
	// takes that service of the Mux.
	Handler http.Handler
	// Anchors are the sets that devices get at /.well-known/est/cacerts of the
	// service http, ahead of Handler, which may be nil then: those sets under
	// which the outer chain that the device met validates, and no others. A
	// certificate that a device reported is never served for that.
	Anchors []AnchorSet
	// Enrollment lets devices enroll at the service http; nil: none can.
	Enrollment *Enrollment
	// AuthorizeService decides on each connection of a device to a service of the
	// Mux or to Handler; nil allows all. ctx is the session's: FromContext and
	// ConnectionState work on it. An error is told to the device as not allowed,
	// with its text, a *RefusedError as it is. It is called before it is known
	// whether the service exists.
	AuthorizeService func(ctx context.Context, device, service string) error
	// Keys gets the keys of each device's sealed requests, for OpenSealed; nil:
	// there are none. KeyLifetime is how long they work after the session's end;
	// one hour.
	Keys        KeyStore
	KeyLifetime time.Duration
	// Origins are the browser origins that may connect; none by default.
	Origins []string
	Limits  Limits
	Hooks   Hooks
	// Logger gets a line when a device comes, goes, or is refused; nil is silence.
	Logger *slog.Logger
}

// Limits bound what peers can cause. Zero values have the defaults.
type Limits struct {
	Sessions     int           // ready at once; 100,000
	HalfOpen     int           // not yet ready at once; 1,024. More get 503 with Retry-After
	Streams      int           // that one device may have open; 256
	Unread       int           // bytes that those may hold and nobody has read, 4 MiB at least; 128 MiB. A far device's windows are smaller then, or its streams fewer
	ReadyTimeout time.Duration // from the upgrade to Ready; 10 s
	Keepalive    time.Duration // interval of pings; 25 s. Three missed ones end a session
	SignalRate   int           // signals a second of one device, in a burst up to so many at once; 1,000. More wait
}

func (l Limits) complete() Limits {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&l.Sessions, 100_000)
	def(&l.HalfOpen, 1024)
	def(&l.Streams, session.DefaultStreams)
	def(&l.Unread, session.DefaultUnread)
	def(&l.SignalRate, 1000)
	if l.ReadyTimeout <= 0 {
		l.ReadyTimeout = 10 * time.Second
	}
	if l.Keepalive <= 0 {
		l.Keepalive = session.DefaultKeepalive
	}
	return l
}

// Hooks are called as sessions come and go; each may be nil. They are called
// from the session's goroutines and should return soon.
type Hooks struct {
	Connected    func(s *Session)
	Disconnected func(s *Session, err error)
	// Refused is called for a peer that got no session, with why.
	Refused func(remote string, err error)
	// RefusedRequest is called for a POST request that is not answered 200, with
	// the status: one that is forged, lost its connection, or came too late.
	RefusedRequest func(remote string, status int)
}

// uriPrefix is how atls-ws pki names devices in certificates.
const uriPrefix = "urn:atls-ws:device:"

// Identify is the default way to a device's id: the certificate's first URI SAN
// (without the prefix urn:atls-ws:device:), else its first DNS SAN, else the
// subject's serialNumber (IEEE 802.1AR), else its common name.
func Identify(cs tls.ConnectionState) (device string, err error) {
	if len(cs.PeerCertificates) == 0 {
		return "", errors.New("no client certificate")
	}
	c := cs.PeerCertificates[0]
	switch {
	case len(c.URIs) > 0:
		device = strings.TrimPrefix(c.URIs[0].String(), uriPrefix)
	case len(c.DNSNames) > 0:
		device = c.DNSNames[0]
	case c.Subject.SerialNumber != "":
		device = c.Subject.SerialNumber
	default:
		device = c.Subject.CommonName
	}
	if err := proto.CheckName(device); err != nil {
		return "", fmt.Errorf("the certificate gives none: %w", err)
	}
	return device, nil
}
