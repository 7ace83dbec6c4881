package session

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"time"
)

// Config is what both ends need for sessions. TLS is the INNER configuration;
// Client and NewAcceptor tighten a clone of it. Zero values of the rest have the
// documented defaults.
type Config struct {
	TLS       *tls.Config
	Mux       *Mux          // nil: answers to nothing
	Logger    *slog.Logger  // nil: silence
	Streams   int           // the peer's open streams; 0: DefaultStreams
	Unread    int           // bytes that those may hold and nobody has read, at least MinUnread; 0: DefaultUnread
	Keepalive time.Duration // server: interval of pings; 0: DefaultKeepalive. The client learns it

	Hello   func() Hello // client: what it says of itself, asked for when the handshake is done; nil: nothing
	Applied *Applied     // client: what it has handled; nil: signals that come again are handled again
	Queue   string       // server: names the queue that signals with a Seq come from
	HTTP    string       // server: the service of Mux that peers of atls-http/1 reach while something listens on it; empty: none
	Guests  bool         // server: take those of atls-http/1 without a certificate too
	// Admit is the server's decision on a peer whose certificate is verified. It
	// returns the device's id, or an error: a *RefusedError goes to the peer as it
	// is, any other as not allowed with its text. It may complete the Hello.
	Admit func(state tls.ConnectionState, hello *Hello) (device string, err error)
	// Authorize decides on each stream that the peer opens to a service, whether
	// anybody listens on it or not; nil allows all. ctx is the session's. A
	// *RefusedError goes to the peer as it is, any other error as not allowed
	// with its text.
	Authorize func(ctx context.Context, device, service string) error
	// OpensLate says that a client's carrier opens with the first write to it, so
	// that the first answer says nothing of the way.
	OpensLate bool
	// SignalRate is how many signals a second are taken from the peer, in a burst
	// up to so many at once; more wait in its stream's window. 0: no limit.
	SignalRate int
	// Limited, if set, is called when a limit was in the way of the peer.
	Limited func(Limit)
}

// Limit names a bound on what a peer can cause.
type Limit string

// The limits that Config.Limited is told of.
const (
	LimitStreams Limit = "streams" // a stream was refused
	LimitUnread  Limit = "unread"  // so it was because there is no room for its window
	LimitWaiting Limit = "waiting" // so it was because its service does not accept those before it
	LimitSignals Limit = "signals" // a signal had to wait
)

func (c *Config) limited(l Limit) {
	if c.Limited != nil {
		c.Limited(l)
	}
}

func (c *Config) complete() *Config {
	cc := *c
	if cc.Mux == nil {
		cc.Mux = new(Mux)
	}
	if cc.Logger == nil {
		cc.Logger = slog.New(slog.DiscardHandler)
	}
	if cc.Streams <= 0 {
		cc.Streams = DefaultStreams
	}
	if cc.Unread <= 0 {
		cc.Unread = DefaultUnread
	}
	cc.Unread = max(cc.Unread, MinUnread)
	if cc.Keepalive <= 0 {
		cc.Keepalive = DefaultKeepalive
	}
	return &cc
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
