package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/config"
)

// explain says why a device has no session, and what can be done about it.
func explain(err error, cfg *config.Device) error {
	var up *client.CarrierError
	var alert *client.AlertError
	var refused *client.RefusedError
	var both *client.CarriersError
	if err == nil {
		return nil
	}
	if said := explainEnroll(err, cfg); said != nil {
		return said
	}
	switch {
	case errors.As(err, &both):
		return explainBoth(both, cfg)
	case errors.Is(err, client.ErrReplaced):
		return withNext(errors.New("a newer connection with this device's certificate took over"),
			"look for a second device with a copy of "+cfg.Inner.Cert+"; every device needs a certificate of its own")
	case errors.Is(err, client.ErrDead), errors.Is(err, client.ErrPeerGone):
		return withNext(err, "whoever is between the ends cut the connection, or the server ended; without --once the device connects again by itself")
	case errors.As(err, &up):
		return explainCarrier(err, up, cfg)
	case errors.As(err, &alert):
		return explainAlert(alert, cfg)
	case errors.As(err, &refused):
		return withNext(fmt.Errorf("the server refuses the session: %w", refused), "its log says more, at the same time, with this device's address")
	case errors.Is(err, client.ErrDraining):
		return withNext(errors.New("the server shuts down and asks to connect again"), "without --once this happens by itself")
	}
	return explainInner(err, cfg)
}

// explainBoth is about two carriers that failed: in one sentence when the reason
// is the same.
func explainBoth(both *client.CarriersError, cfg *config.Device) error {
	ws, wsNext := words(explain(both.WebSocket, cfg))
	post, postNext := words(explain(both.POST, cfg))
	if wsNext == postNext {
		return withNext(fmt.Errorf("neither WebSocket nor POST gets through: %w", explain(both.WebSocket, cfg)), wsNext)
	}
	return withNext(&saidError{"WebSocket: " + ws + ". POST: " + post, both}, "for WebSocket, "+wsNext+"; or for POST, "+postNext)
}

// saidError gives an error other words.
type saidError struct {
	words string
	err   error
}

func (e *saidError) Error() string { return e.words }
func (e *saidError) Unwrap() error { return e.err }

// explainInner is about the end-to-end handshake.
func explainInner(err error, cfg *config.Device) error {
	var verify *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	met := ""
	if errors.As(err, &verify) && len(verify.UnverifiedCertificates) > 0 {
		leaf := verify.UnverifiedCertificates[0]
		met = fmt.Sprintf(" (it is %q, issued by %q)", leaf.Subject, leaf.Issuer)
	}
	switch {
	case errors.As(err, &unknown):
		return withNext(fmt.Errorf("inner handshake: the server's inner certificate is not signed by the CA in %s%s: %w", cfg.Inner.CA, met, err),
			"copy the server's ca.pem here, or suspect whoever answers in its place: no session is made")
	case errors.As(err, &name):
		return withNext(fmt.Errorf("inner handshake: the server's inner certificate is not for the name %q%s: %w", cfg.Inner.ServerName, met, err),
			"give the name that it has to --server-name, or make one with: atls-ws pki server --name "+cfg.Inner.ServerName)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return withNext(fmt.Errorf("inner handshake: the server's inner certificate is expired or not yet valid%s: %w", met, err),
			"check this device's clock; then renew it on the server with: atls-ws pki server --force")
	case verify != nil:
		return withNext(fmt.Errorf("inner handshake: the server's inner certificate does not verify%s: %w", met, err),
			"compare "+cfg.Inner.CA+" with the CA of the server")
	case errors.Is(err, context.DeadlineExceeded):
		return withNext(fmt.Errorf("a carrier was opened, but no session came through it in time: %w", err),
			"check that "+cfg.URL+" leads to an atls-ws server; a box between may hold back what it carries")
	case tampered(err):
		return explainTampering(err, cfg)
	case strings.Contains(err.Error(), "inner handshake"):
		return withNext(err, "check that "+cfg.URL+" leads to an atls-ws server, and to nothing that changes what the carrier carries")
	}
	return err
}

// tampered tells the TLS errors of bytes that are not those which were sent.
func tampered(err error) bool {
	for _, s := range []string{"bad record MAC", "error decrypting message", "error decoding message", "illegal parameter",
		"unexpected message", "oversized record", "record with version", "invalid signature"} {
		if strings.Contains(err.Error(), s) {
			return true
		}
	}
	return false
}

func explainTampering(err error, cfg *config.Device) error {
	return withNext(fmt.Errorf("a box between changes what it carries, and inside that is noticed: %w", err),
		"no session is made through such a box: ask the owner of the network to let the traffic to "+cfg.URL+" through as it is")
}

// explainAlert is about the server's refusal of this device in the inner handshake.
func explainAlert(alert *client.AlertError, cfg *config.Device) error {
	text := alert.Error()
	say := func(why, next string) error {
		return withNext(fmt.Errorf("inner handshake: the server does not accept this device's certificate %s: %s: %w", cfg.Inner.Cert, why, alert), next)
	}
	switch {
	case strings.Contains(text, "unknown certificate authority"):
		return say("its CA is not the server's client CA", "make one with the server's CA: atls-ws pki device ID")
	case strings.Contains(text, "expired certificate"):
		return say("it is expired or not yet valid", "renew it with: atls-ws pki device --force ID; and check both clocks")
	case strings.Contains(text, "certificate"):
		return say("it does not verify", "the server's log says why; make one with: atls-ws pki device ID")
	case tampered(alert):
		return explainTampering(fmt.Errorf("inner handshake: %w", alert), cfg)
	}
	return withNext(fmt.Errorf("inner handshake: %w", alert), "the server's log says why")
}

// explainCarrier is about the outer hop: nothing of it concerns the inner trust.
func explainCarrier(err error, up *client.CarrierError, cfg *config.Device) error {
	var verify *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var dns *net.DNSError
	say := func(what, next string) error { return withNext(fmt.Errorf("%s: %w", what, rootCause(err, up)), next) }
	if said := explainProxy(err, up, cfg); said != nil {
		return said
	}
	switch text := err.Error(); {
	case errors.As(err, &verify):
		issuer := ""
		if len(verify.UnverifiedCertificates) > 0 {
			issuer = fmt.Sprintf(" (issued by %q)", verify.UnverifiedCertificates[0].Issuer)
		}
		return say("the outer certificate does not verify"+issuer,
			"name its CA with --outer-roots, or accept it with --outer report: the inner session is verified in any case")
	case errors.As(err, &record), strings.Contains(text, "HTTP response to HTTPS client"):
		return say("what answers does not speak TLS", "check the port, or begin the URL with http:// where nothing terminates TLS")
	case errors.As(err, &dns):
		return explainDNS(dns, up, cfg)
	case errors.Is(err, syscall.ECONNREFUSED):
		return say("nothing listens at "+cfg.URL, "check host and port, and that the server runs")
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return say("there is no route to "+cfg.URL, "check this device's network")
	case errors.Is(err, context.DeadlineExceeded):
		return say("no answer from "+cfg.URL, "check host and port, that a firewall lets them through, and whether a proxy is needed (--proxy)")
	}
	switch s := up.StatusCode; {
	case s == http.StatusOK && errors.Is(err, io.ErrUnexpectedEOF):
		return say("a box between cuts the answers short", "ask the owner of the network to let the traffic to "+cfg.URL+" through as it is")
	case s >= 300 && s < 400, s >= 200 && s < 300 && up.Body != "", s == http.StatusNetworkAuthenticationRequired:
		return say("a page answers instead of the server", "if a portal wants a login here, log in with a browser or let this device through without; else check the path of "+cfg.URL)
	}
	switch up.StatusCode {
	case 0:
		return say("no connection to "+cfg.URL, "check host, port and proxy")
	case http.StatusSwitchingProtocols:
		return say("what answers is no atls-ws server", "check that "+cfg.URL+" leads to one, and to no other WebSocket service")
	case http.StatusUpgradeRequired:
		return say("a box between removes the WebSocket upgrade", "let it pass WebSocket: nginx needs the Upgrade and Connection headers set")
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusOK:
		return say("no atls-ws server at this path", "check the path of "+cfg.URL+" (default "+client.DefaultPath+")")
	case http.StatusProxyAuthRequired:
		return say("the proxy wants a login", "give it user and password, "+loginNext)
	case http.StatusUnauthorized, http.StatusForbidden:
		return say("a box between, or the server, forbids it", "ask the owner of the network to allow requests to "+cfg.URL)
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return say("the server has no room now, or is down behind its proxy", "try again later; without --once this happens by itself")
	case http.StatusBadGateway, http.StatusGatewayTimeout:
		return say("a proxy answers, but the server behind it does not", "check that the server runs where the proxy looks for it")
	}
	if strings.Contains(err.Error(), "HTTP request to an HTTPS server") {
		return say("TLS is spoken at this address, and plain HTTP was", "write https:// in "+cfg.URL)
	}
	return say("the "+up.Op+" is refused", "check that "+cfg.URL+" leads to an atls-ws server")
}

// explainDNS is about a name that leads nowhere, the server's or a proxy's. It
// may be about to: a device whose network comes up, or whose router starts, tries
// again as after any other failure.
func explainDNS(dns *net.DNSError, up *client.CarrierError, cfg *config.Device) error {
	say := func(what, next string) error { return withNext(fmt.Errorf("%s: %w", what, rootCause(up, up)), next) }
	switch {
	case errors.Is(dns, syscall.ENETUNREACH), errors.Is(dns, syscall.EHOSTUNREACH), strings.Contains(dns.Err, "unreachable"):
		return say("there is no network to ask DNS over", "check this device's cable or radio, and its address")
	case dns.IsNotFound:
		return say("the server's name is not found", "check the host in "+cfg.URL+", and this device's DNS: another network's may know it")
	case dns.IsTimeout:
		return say("DNS does not answer", "check this device's DNS servers (/etc/resolv.conf), and that a firewall lets it ask them")
	}
	return say("DNS has no answer for the server's name", "wait a moment: its DNS servers, or those of the name, have a fault of their own; if it stays, name others in /etc/resolv.conf")
}

// rootCause leaves out the layers of HTTP where they say nothing.
func rootCause(err error, up *client.CarrierError) error {
	var op *net.OpError
	var verify *tls.CertificateVerificationError
	switch {
	case up.StatusCode != 0:
		return up
	case errors.As(err, &op):
		return op
	case errors.As(err, &verify):
		return verify
	}
	return up
}
