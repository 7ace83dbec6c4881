package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/atls-ws/atls-ws/internal/answer"
	"github.com/atls-ws/atls-ws/internal/outer"
)

const (
	dnsTimeout = 5 * time.Second
	tcpTimeout = 10 * time.Second
	getTimeout = 15 * time.Second
)

// reach is the part of the way that both carriers share: proxy, DNS, TCP, outer
// TLS, and a plain GET.
func (d *doctor) reach(ctx context.Context) bool {
	first := d.chooseProxy()
	if first == nil {
		return false
	}
	addrs, ok := d.resolve(ctx, first.Hostname())
	if !ok || !d.connect(ctx, addrs, first) {
		return false
	}
	return d.get(ctx)
}

// chooseProxy returns the URL of whom to connect to first: the proxy's or the server's.
func (d *doctor) chooseProxy() *url.URL {
	began := time.Now()
	choose, whose := d.o.Proxy, "configured"
	if choose == nil {
		choose, whose = outer.Environment, "from the environment"
	}
	u, err := choose(&http.Request{URL: d.o.URL})
	switch {
	case d.failed("proxy", began, err):
		return nil
	case u == nil:
		d.step("proxy", OK, began, "none: directly to %s", d.o.URL.Host)
		return d.o.URL
	}
	d.seen.proxy = u
	login := ""
	if u.User != nil {
		login = ", with a login"
	}
	d.step("proxy", OK, began, "%s://%s (%s%s)", u.Scheme, u.Host, whose, login)
	return u
}

func (d *doctor) resolve(ctx context.Context, host string) ([]string, bool) {
	began := time.Now()
	if ip := net.ParseIP(host); ip != nil {
		d.step("dns", OK, began, "%s is an address", host)
		return []string{host}, true
	}
	ctx, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupHost(ctx, host)
	if d.failed("dns", began, err) {
		d.seen.ws.err = err
		return nil, false
	}
	d.step("dns", OK, began, "%s is %s", host, strings.Join(addrs[:min(3, len(addrs))], ", "))
	return addrs, true
}

func (d *doctor) connect(ctx context.Context, addrs []string, u *url.URL) bool {
	began := time.Now()
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "ws": "80", "socks5": "1080", "socks5h": "1080"}[u.Scheme]
	}
	if port == "" {
		port = "443"
	}
	ctx, cancel := context.WithTimeout(ctx, tcpTimeout)
	defer cancel()
	var err error
	for _, a := range addrs {
		var conn net.Conn
		if conn, err = new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(a, port)); err == nil {
			d.step("tcp", OK, began, "connected to %s from %s", conn.RemoteAddr(), conn.LocalAddr())
			_ = conn.Close()
			return true
		}
	}
	d.seen.ws.err = err
	d.failed("tcp", began, err)
	return false
}

// get is a plain GET, which a server of ours answers with 426 and a problem type
// of ours: boxes that take the upgrade away make the same request of it.
func (d *doctor) get(ctx context.Context) bool {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, getTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, d.o.URL.String(), nil)
	if err != nil {
		return !d.failed("http", began, err)
	}
	resp, err := d.hop.RoundTrip(r)
	d.outerStep(began, err)
	if err != nil {
		d.seen.ws.err = err
		return false
	}
	d.seen.reachable = true
	got := answer.Read("", resp)
	d.seen.wantsTLS = got.StatusCode == http.StatusBadRequest && d.o.URL.Scheme == "http" && strings.Contains(got.Body, "HTTPS")
	switch {
	case got.StatusCode == http.StatusUpgradeRequired && strings.Contains(got.Body, answer.UpgradeRequired):
		d.seen.service = true
		d.step("http", OK, began, "the service answers")
	case got.StatusCode >= 200 && got.StatusCode < 400:
		d.seen.loginPage = true
		d.step("http", Failed, began, "something else answers: %v", got)
	default:
		d.step("http", Failed, began, "not the service: %v", got)
	}
	return true
}

// outerStep tells of the outer TLS connection that a request made.
func (d *doctor) outerStep(began time.Time, err error) {
	const name = "outer tls"
	if d.o.URL.Scheme == "http" {
		d.step(name, Skipped, time.Time{}, "plain http: nothing to look at")
		if err != nil {
			d.failed("http", began, err)
		}
		return
	}
	cs, verifyErr := d.met()
	if cs == nil {
		if err == nil {
			err = errors.New("no TLS connection was made")
		}
		d.failed(name, began, err)
		return
	}
	leaf := cs.PeerCertificates[0]
	text := fmt.Sprintf("%s, certificate of %q issued by %q", versionName(cs), leaf.Subject, leaf.Issuer)
	if verifyErr == nil {
		d.step(name, OK, began, "%s: it verifies", text)
	} else {
		d.step(name, Warn, began, "%s: %v", text, verifyErr)
	}
	if err != nil {
		d.failed("http", began, err)
	}
}
