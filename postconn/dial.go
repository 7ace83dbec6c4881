package postconn

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"

	"github.com/atls-ws/atls-ws/internal/answer"
	"github.com/atls-ws/atls-ws/internal/outer"
)

// AnswerError says what HTTP answered instead of the connection's bytes. Its
// StatusCode is 0 when there was no answer at all.
type AnswerError = answer.Error

const op = "post"

// DialOptions configure Dial. The zero value works.
type DialOptions struct {
	// TLS is the OUTER configuration for https; nil is the default of crypto/tls.
	// It is cloned, and its ALPN set to http/1.1.
	TLS *tls.Config
	// Proxy picks the proxy (http, https, socks5); nil is what HTTPS_PROXY,
	// ALL_PROXY and NO_PROXY say. Userinfo in the proxy's URL is sent to it.
	Proxy func(*http.Request) (*url.URL, error)
	// DialContext makes the TCP connections; nil is a net.Dialer's.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// Transport, if set, sends the requests instead of the three above. The
	// caller closes what it leaves idle.
	Transport *http.Transport
	// Header is sent with all requests.
	Header http.Header
}

// Dial makes the client's end of a connection to url (https, wss, http or ws;
// wss is https). It does no I/O: the first request goes out with the first bytes
// that are written, or when a Read blocks, and what it meets is an error of
// Read and Write. The caller owns the Conn. ctx bounds nothing but the call.
func Dial(ctx context.Context, url string, o *DialOptions) (*Conn, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, &AnswerError{Op: op, Err: err}
	}
	if o == nil {
		o = &DialOptions{}
	}
	u, err := parseURL(url)
	if err != nil {
		return nil, &AnswerError{Op: op, Err: err}
	}
	if o.Transport != nil {
		return &newPoster(u, o.Header, o.Transport, func() {}).Conn, nil
	}
	hop := outer.New(outer.Options{TLS: o.TLS, Proxy: o.Proxy, DialContext: o.DialContext})
	return &newPoster(u, o.Header, hop.Transport, hop.Close).Conn, nil
}

func parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, err
	}
	switch u.Scheme {
	case "https", "http":
	case "wss":
		u.Scheme = "https"
	case "ws":
		u.Scheme = "http"
	default:
		return nil, fmt.Errorf("the scheme of the URL is %q, want https", u.Scheme)
	}
	if u.Host == "" {
		return nil, fmt.Errorf("the URL names no host")
	}
	return u, nil
}
