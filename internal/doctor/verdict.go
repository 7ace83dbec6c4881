package doctor

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/atls-ws/atls-ws/internal/answer"
	"github.com/atls-ws/atls-ws/internal/session"
)

// conclude makes sentences of what was seen.
func (d *doctor) conclude() {
	s := &d.seen
	ws, post := s.ws.works(d), s.post.works(d)
	switch {
	case ws:
		d.report.Carrier, d.report.OK = "websocket", true
	case post:
		d.report.Carrier, d.report.OK = "post", true
	}
	d.concludeOuter()
	if s.reachable {
		d.concludePage(ws || post)
		d.concludeWebSocket(ws)
		d.concludePost(post)
	} else if s.ws.err != nil {
		d.concludeUnreachable(s.ws.err)
	}
	switch {
	case ws && post:
		d.found("A session is possible. WebSocket will carry it, POST could.")
	case ws:
		d.found("A session is possible over WebSocket.")
	case post:
		d.found("A session is possible over POST. Signals arrive as soon as over WebSocket; bulk data is slower.")
	default:
		d.found("No session is possible.")
	}
	if d.report.OK && len(d.o.Inner.Certificates) == 0 {
		d.found("Whether the server accepts this device is open: no device certificate was given (--cert, --key, --ca).")
	}
}

func (d *doctor) found(format string, a ...any) {
	d.report.Found = append(d.report.Found, fmt.Sprintf(format, a...))
}

func (d *doctor) tell(format string, a ...any) {
	d.report.Tell = append(d.report.Tell, fmt.Sprintf(format, a...))
}

// works says whether a session is possible over the carrier, as far as that
// could be tested.
func (t *track) works(d *doctor) bool {
	if d.o.Inner.RootCAs == nil || len(d.o.Inner.Certificates) == 0 {
		return t.handshake
	}
	return t.ready
}

func (d *doctor) host() string { return d.o.URL.Host }

func (d *doctor) concludeOuter() {
	cs, err := d.met()
	if cs == nil {
		return
	}
	issuer := cs.PeerCertificates[0].Issuer
	var intercepted *bool
	for _, t := range []*track{&d.seen.ws, &d.seen.post} {
		if t.intercepted != nil {
			intercepted = t.intercepted
		}
	}
	switch {
	case intercepted != nil && *intercepted && err == nil:
		d.found("TLS to %s is intercepted by a box whose authority %q this device trusts. What goes inside is not readable to it.", d.host(), issuer)
	case intercepted != nil && *intercepted:
		d.found("TLS to %s is intercepted: a box answers with a certificate from %q, which this device has no reason to trust. What goes inside is not readable to it.", d.host(), issuer)
		d.tell("exempt %s from TLS inspection, or let this device fetch the box's authority with: atls-ws bootstrap", d.host())
	case intercepted != nil && err != nil:
		d.found("The outer certificate is the server's own, but from an authority %q that this device does not know.", issuer)
	case err != nil:
		d.found("What answers for %s has a certificate from %q that this device has no reason to trust: a middlebox that intercepts TLS, or a server with a private certificate.", d.host(), issuer)
		d.tell("if you run a box that intercepts TLS: exempt %s, or give this device the box's authority", d.host())
	}
}

func (d *doctor) concludePage(works bool) {
	switch {
	case d.seen.wantsTLS:
		d.found("What answers speaks TLS: begin the URL with https://.")
	case d.seen.loginPage && works:
		d.found("A plain GET gets a page from something between, yet the carrier passes.")
	case d.seen.loginPage:
		d.found("A page answers instead of the service: a login portal on the network, or a wrong path in the URL.")
		d.tell("this device cannot log in at a portal: let it reach %s without", d.host())
	case !d.seen.service && !works:
		d.found("What answers is not an atls-ws server: check the host and the path of the URL.")
	}
}

func (d *doctor) concludeWebSocket(works bool) {
	t := &d.seen.ws
	if works || t.err == nil {
		return
	}
	var got *answer.Error
	switch {
	case t.opened && !t.frames:
		d.found("The upgrade to WebSocket is answered, but no message comes back: a box between answers it and lets nothing through.")
		d.tellUpgrade()
	case t.opened:
		d.concludeInner(t.err)
	case errors.As(t.err, &got) && got.StatusCode == http.StatusUpgradeRequired:
		d.found("A box between removes the WebSocket upgrade.")
		d.tellUpgrade()
	case errors.As(t.err, &got) && got.StatusCode != 0 && d.seen.service:
		d.found("The WebSocket upgrade is answered %d by something between.", got.StatusCode)
		d.tellUpgrade()
	case d.seen.service:
		d.found("A connection that asks for WebSocket is cut.")
		d.tellUpgrade()
	}
}

func (d *doctor) tellUpgrade() {
	d.tell("let WebSocket through to %s: keep the headers Connection and Upgrade (nginx: proxy_set_header; squid: http_upgrade_request_protocols websocket allow all)", d.host())
}

func (d *doctor) concludePost(works bool) {
	t := &d.seen.post
	if works {
		if d.seen.cut > 0 {
			d.found("Requests that wait for an answer are cut after %s; the POST carrier then asks again.", d.seen.cut.Round(100*time.Millisecond))
			d.tell("let a request to %s wait for its answer for 25 seconds", d.host())
		}
		return
	}
	var got *answer.Error
	switch {
	case t.err == nil:
	case t.frames:
		d.concludeInner(t.err)
	case errors.As(t.err, &got) && got.StatusCode != 0 && d.seen.service:
		d.found("POST requests are answered %d by something between.", got.StatusCode)
		d.tell("let POST requests with the content type application/atls through to %s", d.host())
	case d.seen.service:
		d.found("POST requests get no usable answer: %v.", t.err)
		d.tell("let POST requests with the content type application/atls through to %s", d.host())
	}
}

// concludeInner is about an inner handshake that bytes reached.
func (d *doctor) concludeInner(err error) {
	var verify *tls.CertificateVerificationError
	var alert *session.AlertError
	var refused *session.RefusedError
	said := ""
	switch {
	case errors.As(err, &verify) && len(verify.UnverifiedCertificates) > 0:
		leaf := verify.UnverifiedCertificates[0]
		said = fmt.Sprintf("What answers inside is not the service that this device trusts (%q, issued by %q): a box that speaks ATLS in its place, or a CA file of another server.", leaf.Subject, leaf.Issuer)
	case errors.As(err, &alert):
		said = fmt.Sprintf("The service does not accept this device's certificate: %v.", alert.Err)
	case errors.As(err, &refused):
		said = fmt.Sprintf("The service refuses this device: %v.", refused)
	default:
		said = fmt.Sprintf("Bytes pass, but the inner handshake fails: something between changes them, or holds them back (%v).", err)
	}
	for _, f := range d.report.Found {
		if f == said {
			return
		}
	}
	d.found("%s", said)
}

func (d *doctor) concludeUnreachable(err error) {
	var dns *net.DNSError
	var got *answer.Error
	var op *net.OpError
	switch {
	case errors.As(err, &dns):
		d.found("The name %s is not known here: check the URL, and this device's DNS.", dns.Name)
	case errors.As(err, &got) && got.StatusCode == http.StatusProxyAuthRequired:
		d.found("The proxy wants a login: put user:password@ before its host (in ATLS_WS_PROXY, not on a command line).")
		d.tell("give this device a login for the proxy, or let it through without")
	case errors.As(err, &got) && got.Op == "proxy":
		d.found("The proxy answers %d to CONNECT: it does not let this device reach %s, or cannot.", got.StatusCode, d.host())
		d.tell("let CONNECT to %s through the proxy", d.host())
	case errors.As(err, &op) && op.Op == "dial":
		d.found("No connection: %v. Check the address, the network, and that the server runs.", op)
	case strings.Contains(err.Error(), "first record does not look like a TLS"), strings.Contains(err.Error(), "HTTP response to HTTPS"):
		d.found("What answers at %s does not speak TLS: check the port, or begin the URL with http:// where nothing terminates TLS.", d.host())
	default:
		d.found("The connection to %s is cut or not answered: %v.", d.host(), err)
		d.tell("let TLS connections to %s through", d.host())
	}
}

func (d *doctor) met() (*tls.ConnectionState, error) {
	d.seen.mu.Lock()
	defer d.seen.mu.Unlock()
	return d.seen.outer, d.seen.outerErr
}

func versionName(cs *tls.ConnectionState) string { return tls.VersionName(cs.Version) }

func answerError(resp *http.Response) error { return answer.Read("post", resp) }

// readAll reads an answer of the POST carrier, which is at most 64 KiB.
func readAll(resp *http.Response) ([]byte, error) {
	defer func() { _ = resp.Body.Close() }()
	return io.ReadAll(io.LimitReader(resp.Body, 64<<10))
}
