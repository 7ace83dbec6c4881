// Package outer makes the HTTP connections of the outer hop: the untrusted way
// to whoever answers, directly or through a proxy. Both carriers use it.
package outer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/atls-ws/atls-ws/internal/answer"
)

const handshakeTimeout = 10 * time.Second

// Options say how to connect. The zero value works.
type Options struct {
	// TLS is the OUTER configuration; nil is the default of crypto/tls. It is
	// cloned, and its ALPN set to http/1.1: an upgrade needs it.
	TLS *tls.Config
	// Proxy picks the proxy (http, https, socks5); nil is Environment. The TLS to
	// an https proxy always verifies, for the proxy's password goes through it.
	Proxy func(*http.Request) (*url.URL, error)
	// DialContext makes the TCP connections; nil is a net.Dialer's.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Hop is an HTTP/1.1 transport and the connections that it has made. Its owner
// closes it.
type Hop struct {
	*http.Transport
	outer *tls.Config
	dial  func(ctx context.Context, network, addr string) (net.Conn, error)

	mu      sync.Mutex
	closed  bool
	conns   map[*conn]struct{}
	proxies map[string]bool // addresses of https proxies
}

// New makes a Hop. It does no I/O.
func New(o Options) *Hop {
	h := &Hop{outer: &tls.Config{}, dial: o.DialContext, conns: map[*conn]struct{}{}, proxies: map[string]bool{}}
	if o.TLS != nil {
		h.outer = o.TLS.Clone()
	}
	h.outer.NextProtos = []string{"http/1.1"}
	if h.dial == nil {
		h.dial = new(net.Dialer).DialContext
	}
	proxy := o.Proxy
	if proxy == nil {
		proxy = Environment
	}
	h.Transport = &http.Transport{
		Proxy: func(r *http.Request) (*url.URL, error) {
			u, err := proxy(r)
			if u != nil && u.Scheme == "https" {
				h.noteProxy(u)
			}
			return u, err
		},
		TLSClientConfig:        h.outer,
		DialContext:            h.dialTCP,
		DialTLSContext:         h.dialTLS,
		TLSHandshakeTimeout:    handshakeTimeout,
		TLSNextProto:           map[string]func(string, *tls.Conn) http.RoundTripper{}, // no HTTP/2
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
		IdleConnTimeout:        time.Minute,
		OnProxyConnectResponse: func(_ context.Context, proxy *url.URL, _ *http.Request, resp *http.Response) error {
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			as := "without a login"
			if u := proxy.User.Username(); u != "" {
				as = fmt.Sprintf("with the login of %q", u)
			}
			return &answer.Error{
				Op: "proxy", StatusCode: resp.StatusCode, RetryAfter: answer.RetryAfter(resp.Header),
				Err: fmt.Errorf("by proxy %s, to CONNECT %s", proxy.Host, as),
			}
		},
	}
	return h
}

// Close ends all connections that the hop has made, those in use too. Later
// ones fail.
func (h *Hop) Close() {
	h.mu.Lock()
	h.closed = true
	conns := h.conns
	h.conns = nil
	h.mu.Unlock()
	for c := range conns {
		_ = c.Batch.Close()
	}
	h.CloseIdleConnections()
}

// conn is a connection that the hop forgets when it is closed.
type conn struct {
	*Batch
	hop *Hop
}

func (c *conn) Close() error {
	c.hop.mu.Lock()
	delete(c.hop.conns, c)
	c.hop.mu.Unlock()
	return c.Batch.Close()
}

func (h *Hop) dialTCP(ctx context.Context, network, addr string) (net.Conn, error) {
	raw, err := h.dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed { // a transport dials on after its request has ended
		_ = raw.Close()
		return nil, net.ErrClosed
	}
	c := &conn{NewBatch(raw), h}
	h.conns[c] = struct{}{}
	return c, nil
}

// dialTLS makes the TLS connections to servers that need no proxy, and to https
// proxies. net/http does the handshake of neither.
func (h *Hop) dialTLS(ctx context.Context, network, addr string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	raw, err := h.dialTCP(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	cfg := h.outer.Clone()
	if h.isProxy(addr) {
		cfg = &tls.Config{RootCAs: h.outer.RootCAs, NextProtos: []string{"http/1.1"}}
	}
	if cfg.ServerName == "" {
		cfg.ServerName = host
	}
	tc := tls.Client(raw, cfg)
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := tc.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		if h.isProxy(addr) {
			err = fmt.Errorf("https proxy %s: %w", addr, err)
		}
		return nil, err
	}
	return tc, nil
}

func (h *Hop) noteProxy(u *url.URL) {
	port := u.Port()
	if port == "" {
		port = "443"
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.proxies[net.JoinHostPort(u.Hostname(), port)] = true
}

func (h *Hop) isProxy(addr string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.proxies[addr]
}

// Lowest is the TCP connection below any TLS.
func Lowest(c net.Conn) net.Conn {
	for {
		t, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return c
		}
		c = t.NetConn()
	}
}

// Verify does what crypto/tls does for a client that verifies a chain, leaf
// first. host is a name or an IP address, which a ConnectionState's ServerName
// would not give; an empty one checks no name. nil roots are the system's.
func Verify(chain []*x509.Certificate, host string, roots *x509.CertPool) error {
	return VerifyAt(time.Now(), chain, host, roots)
}

// VerifyAt is Verify for a time that is not the system's.
func VerifyAt(now time.Time, chain []*x509.Certificate, host string, roots *x509.CertPool) error {
	opts := x509.VerifyOptions{
		DNSName: host, Roots: roots, CurrentTime: now,
		Intermediates: x509.NewCertPool(),
	}
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	_, err := chain[0].Verify(opts)
	return err
}
