// Package middlebox is a small TLS-intercepting HTTP proxy, the kind of box that
// stands between a device and its service on a customer's network: it takes
// CONNECT, answers the client's TLS with a certificate of its own authority,
// opens its own TLS to the real server and passes the bytes on, in the clear
// for itself. The demo and the tests use it; it is no product.
//
//	box, err := middlebox.Listen("127.0.0.1:0", nil)
//	...
//	defer box.Close()
//	client.Proxy = http.ProxyURL(box.URL())
package middlebox

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"
)

// Bounds of what a client can cause.
const (
	handshakeTime = 10 * time.Second // CONNECT, the dial and both TLS handshakes, each
	idleTime      = 5 * time.Minute  // without a byte in a direction
	maxHead       = 16 << 10         // of a CONNECT request
	maxExchanges  = 256              // that are remembered; later ones pass unrecorded
)

// Config says how the box behaves. The zero value works.
type Config struct {
	Name   string // the authority's common name; default "Middlebox CA"
	Conns  int    // connections at once, more are turned away; default 64
	Record int    // plaintext bytes kept of each direction of an exchange; default none

	// TLS is used towards the real server. nil verifies nothing, as many a box
	// does for hosts its owner does not know. ALPN is always http/1.1.
	TLS *tls.Config
}

// Exchange is one intercepted connection.
type Exchange struct {
	Host     string // as the client asked for it
	Sent     []byte // the first plaintext of the client, at most Config.Record bytes
	Received []byte // the first plaintext of the server, likewise
	Err      error  // why it was not intercepted; nil once both TLS handshakes are done
}

// Proxy is a running box. Its methods may be called concurrently.
type Proxy struct {
	conf   Config
	ca     *authority
	ln     net.Listener
	ctx    context.Context // ends at Close; bounds the dials
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu        sync.Mutex
	closed    bool
	conns     map[net.Conn]struct{}
	exchanges []*Exchange
}

// Listen starts a box on a TCP address, with a new authority that nobody
// trusts. The caller owns the box and closes it.
func Listen(addr string, c *Config) (*Proxy, error) {
	p := &Proxy{conns: make(map[net.Conn]struct{})}
	if c != nil {
		p.conf = *c
	}
	if p.conf.Name == "" {
		p.conf.Name = "Middlebox CA"
	}
	if p.conf.Conns == 0 {
		p.conf.Conns = 64
	}
	ca, err := newAuthority(p.conf.Name)
	if err != nil {
		return nil, fmt.Errorf("middlebox authority: %w", err)
	}
	p.ca = ca
	if p.ln, err = net.Listen("tcp", addr); err != nil {
		return nil, fmt.Errorf("middlebox: %w", err)
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.wg.Go(p.accept)
	return p, nil
}

// URL is what a client uses as its proxy.
func (p *Proxy) URL() *url.URL { return &url.URL{Scheme: "http", Host: p.ln.Addr().String()} }

// Authority is the common name of the box's own CA.
func (p *Proxy) Authority() string { return p.conf.Name }

// CAPEM is the certificate that a client would have to trust.
func (p *Proxy) CAPEM() []byte { return p.ca.pem() }

// Exchanges are the intercepted connections so far, oldest first.
func (p *Proxy) Exchanges() []Exchange {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]Exchange, len(p.exchanges))
	for i, e := range p.exchanges {
		all[i] = *e
		all[i].Sent, all[i].Received = slices.Clone(e.Sent), slices.Clone(e.Received)
	}
	return all
}

// Close stops the box, cuts its connections and waits for its goroutines.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	for c := range p.conns {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.cancel()
	err := p.ln.Close()
	p.wg.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (p *Proxy) accept() {
	for {
		c, err := p.ln.Accept()
		if err != nil {
			if p.ctx.Err() != nil {
				return
			}
			time.Sleep(10 * time.Millisecond) // out of file descriptors: try again
			continue
		}
		if !p.hold(c, p.conf.Conns) {
			_ = c.Close()
			continue
		}
		p.wg.Go(func() {
			defer p.release(c)
			p.serve(c)
		})
	}
}

// hold makes Close cut c; false when the box is closed or limit are held.
func (p *Proxy) hold(c net.Conn, limit int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.conns) >= limit {
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *Proxy) release(c net.Conn) {
	_ = c.Close()
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
}

func (p *Proxy) serve(c net.Conn) {
	_ = c.SetDeadline(time.Now().Add(handshakeTime))
	r, err := http.ReadRequest(bufio.NewReader(io.LimitReader(c, maxHead)))
	if err != nil {
		return
	}
	if r.Method != http.MethodConnect {
		answer(c, http.StatusMethodNotAllowed, "this proxy takes CONNECT only")
		return
	}
	e := p.exchange(r.Host)
	if err := p.intercept(c, r.Host, e); err != nil {
		p.mu.Lock()
		e.Err = err
		p.mu.Unlock()
	}
}

// exchange remembers one more connection.
func (p *Proxy) exchange(host string) *Exchange {
	e := &Exchange{Host: host}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.exchanges) < maxExchanges {
		p.exchanges = append(p.exchanges, e)
	}
	return e
}

// answer writes a whole HTTP response; c is closed after it.
func answer(c net.Conn, code int, text string) {
	_, _ = fmt.Fprintf(c, "HTTP/1.1 %d %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		code, http.StatusText(code), len(text), text)
}
