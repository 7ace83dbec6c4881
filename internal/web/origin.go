// Package web has the reverse proxies of both directions: from devices to
// origins, which are told which device asks, and from operators' browsers to
// the web pages of devices.
package web

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"
)

const dialTimeout = 10 * time.Second // to an origin

// The headers that tell an origin who asks.
const (
	HeaderCert     = "Client-Cert"       // RFC 9440
	HeaderChain    = "Client-Cert-Chain" // RFC 9440
	HeaderDeviceID = "X-Device-Id"
)

// Device is who asks an origin.
type Device struct {
	ID    string
	State tls.ConnectionState // inner
}

// Transport returns a transport for origins, which are reached directly. The
// caller closes its idle connections.
func Transport() *http.Transport {
	return &http.Transport{
		DialContext:         (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSHandshakeTimeout: dialTimeout,
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     time.Minute,
		DisableCompression:  true,
	}
}

// NewOrigin makes a proxy to an origin. who says which device a request is of.
// WebSockets and streams pass.
func NewOrigin(to *url.URL, transport http.RoundTripper, who func(*http.Request) Device, log *slog.Logger) http.Handler {
	return &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			strip(r.Out.Header)
			strip(r.Out.Trailer)
			r.SetXForwarded()
			identify(r.Out.Header, who(r.In))
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() == nil {
				log.Warn("origin does not answer", "origin", to.Redacted(), "err", err)
			}
			http.Error(w, "the service behind this server does not answer", http.StatusBadGateway)
		},
	}
}

// strip removes what a device must not say of itself. Some origins take _ for
// -, so that these spellings are the same header to them.
func strip(h http.Header) {
	for name := range h {
		switch n := strings.ToLower(strings.ReplaceAll(name, "_", "-")); n {
		case "client-cert", "client-cert-chain", "x-device-id", "forwarded":
			delete(h, name)
		default:
			if strings.HasPrefix(n, "x-forwarded") {
				delete(h, name)
			}
		}
	}
}

func identify(h http.Header, d Device) {
	h.Set(HeaderDeviceID, d.ID)
	if len(d.State.PeerCertificates) == 0 {
		return
	}
	h.Set(HeaderCert, byteSequence(d.State.PeerCertificates[0]))
	var chain []string
	for _, c := range intermediates(d.State) {
		chain = append(chain, byteSequence(c))
	}
	if len(chain) > 0 {
		h.Set(HeaderChain, strings.Join(chain, ", "))
	}
}

// intermediates are the certificates between the device's and the trust anchor.
func intermediates(state tls.ConnectionState) []*x509.Certificate {
	if len(state.VerifiedChains) == 0 {
		return nil
	}
	chain := state.VerifiedChains[0]
	return chain[1:max(1, len(chain)-1)]
}

// byteSequence is a certificate as RFC 9440 has it: a structured field.
func byteSequence(c *x509.Certificate) string {
	return ":" + base64.StdEncoding.EncodeToString(c.Raw) + ":"
}
