package client

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"github.com/atls-ws/atls-ws/internal/outer"
)

const (
	rememberFor    = time.Hour
	firstRetry     = time.Minute // of WebSocket while POST is in use
	maxNetworks    = 16
	networkTimeout = 2 * time.Second
)

// paths remembers in which networks POST is the carrier to begin with. It only
// orders the tries: the other carrier follows whenever the first one fails.
type paths struct {
	mu    sync.Mutex
	known map[string]path
}

type path struct {
	until time.Time
	times int // that WebSocket was given up here
}

// first is the carrier to begin with.
func (p *paths) first(network string) Carrier {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Now().Before(p.known[network].until) {
		return CarrierPOST
	}
	return CarrierWebSocket
}

// prefer remembers that POST is what works.
func (p *paths) prefer(network string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known == nil || len(p.known) >= maxNetworks {
		p.known = map[string]path{network: p.known[network]}
	}
	p.known[network] = path{time.Now().Add(rememberFor), p.known[network].times + 1}
}

// retryIn is when to try WebSocket again: the later, the more often it was given up.
func (p *paths) retryIn(network string) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return min(firstRetry<<min(p.known[network].times-1, 6), rememberFor)
}

// network names the network that leads to the server, or to its proxy: by the
// prefix of the local address that is used. It sends nothing but DNS queries.
func network(ctx context.Context, c *Config) string {
	u, err := url.Parse(c.URL)
	if err != nil {
		return ""
	}
	name := ""
	proxy := c.Proxy
	if proxy == nil {
		proxy = outer.Environment
	}
	if p, err := proxy(&http.Request{URL: httpURL(u)}); err == nil && p != nil {
		u, name = p, p.Host
	}
	ctx, cancel := context.WithTimeout(ctx, networkTimeout)
	defer cancel()
	port := u.Port()
	if port == "" {
		port = "443"
	}
	conn, err := new(net.Dialer).DialContext(ctx, "udp", net.JoinHostPort(u.Hostname(), port)) // no packet
	if err != nil {
		return name
	}
	defer func() { _ = conn.Close() }()
	local, err := netip.ParseAddrPort(conn.LocalAddr().String())
	if err != nil {
		return name
	}
	bits := 24
	if local.Addr().Is6() {
		bits = 64
	}
	prefix, _ := local.Addr().Prefix(bits)
	return name + " " + prefix.String()
}

// httpURL is u with the scheme by which proxies are chosen.
func httpURL(u *url.URL) *url.URL {
	h := *u
	switch u.Scheme {
	case "wss":
		h.Scheme = "https"
	case "ws":
		h.Scheme = "http"
	}
	return &h
}
