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
	again time.Duration // the first pause before WebSocket is tried again; 0: firstRetry

	mu    sync.Mutex
	known map[string]path
}

type path struct {
	until time.Time // POST goes first
	next  time.Time // to try WebSocket again, while POST is in use
	times int       // that WebSocket was given up in a row
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

// gaveUp remembers that WebSocket was tried, and did not work or not for long.
// The more often in a row, the later it is tried again.
func (p *paths) gaveUp(network string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.known[network]
	if p.known == nil || len(p.known) >= maxNetworks {
		p.known = map[string]path{}
	}
	again := p.again
	if again == 0 {
		again = firstRetry
	}
	now := time.Now()
	p.known[network] = path{
		until: now.Add(rememberFor), times: was.times + 1,
		next: now.Add(min(again<<min(was.times, 6), rememberFor)),
	}
}

// works forgets what was remembered: WebSocket works, and stays.
func (p *paths) works(network string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.known, network)
}

// retryIn is when to try WebSocket again.
func (p *paths) retryIn(network string) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(time.Until(p.known[network].next), 0)
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
