package wsconn

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// DialOptions configure Dial. The zero value works.
type DialOptions struct {
	// TLS is the OUTER configuration for https and wss; nil is the default of
	// crypto/tls. It is cloned, and its ALPN set to http/1.1: the upgrade needs it.
	TLS *tls.Config
	// Proxy picks the proxy (http, https, socks5); nil is
	// http.ProxyFromEnvironment. Userinfo in the proxy's URL is sent to it.
	Proxy func(*http.Request) (*url.URL, error)
	// DialContext makes the TCP connection; nil is a net.Dialer's.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// Header is sent with the upgrade request.
	Header http.Header
}

// Dial opens a WebSocket connection to url (https, wss, http or ws). The caller
// owns the Conn. ctx bounds the handshake, not the connection. It follows no
// redirect. An error of the handshake is an *UpgradeError.
func Dial(ctx context.Context, url string, o *DialOptions) (*Conn, error) {
	if o == nil {
		o = &DialOptions{}
	}
	d := &dialer{o: o}
	transport := d.transport()
	d.next = transport
	ws, resp, err := websocket.Dial(ctx, url, &websocket.DialOptions{
		HTTPClient:      &http.Client{Transport: d},
		HTTPHeader:      o.Header,
		Subprotocols:    []string{Subprotocol},
		CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		d.close()
		transport.CloseIdleConnections()
		return nil, d.upgradeError(ctx, err)
	}
	return newConn(ws, d.carrier, resp.TLS), nil
}

// dialer is the round tripper of one upgrade. It keeps the TCP connection that
// the transport below makes and puts a sender between it and the library.
type dialer struct {
	o       *DialOptions
	next    http.RoundTripper
	carrier *sender
	status  int // of the answer, 0 without

	mu     sync.Mutex
	conn   net.Conn
	closed bool
}

func (d *dialer) transport() *http.Transport {
	outer := &tls.Config{}
	if d.o.TLS != nil {
		outer = d.o.TLS.Clone()
	}
	outer.NextProtos = []string{"http/1.1"}
	proxy := d.o.Proxy
	if proxy == nil {
		proxy = http.ProxyFromEnvironment
	}
	return &http.Transport{
		Proxy:                  proxy,
		TLSClientConfig:        outer,
		DialContext:            d.dial,
		TLSNextProto:           map[string]func(string, *tls.Conn) http.RoundTripper{}, // no HTTP/2
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
		OnProxyConnectResponse: func(_ context.Context, proxy *url.URL, _ *http.Request, resp *http.Response) error {
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			return &UpgradeError{
				StatusCode: resp.StatusCode,
				RetryAfter: retryAfter(resp.Header.Get("Retry-After"), time.Now()),
				Err:        fmt.Errorf("by proxy %s, to CONNECT", proxy.Host),
			}
		},
	}
}

// dial makes the TCP connection, for the transport.
func (d *dialer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	dial := d.o.DialContext
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	conn, err := dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed { // the transport may dial on after its request has ended
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	d.conn = conn
	return conn, nil
}

func (d *dialer) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	if d.conn != nil {
		_ = d.conn.Close()
	}
}

// RoundTrip sends the upgrade. It returns a 101 only, its body a sender; any
// other answer is an error, so that http.Client sees no redirect to follow.
func (d *dialer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	// For a request with "Upgrade: websocket" the transport offers no ALPN. It
	// looks under the canonical name only; on the wire the case means nothing.
	r.Header["upgrade"] = r.Header["Upgrade"]
	delete(r.Header, "Upgrade")
	resp, err := d.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	d.status = resp.StatusCode
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, refusal(resp)
	}
	if selected := resp.Header.Get("Sec-WebSocket-Protocol"); selected != Subprotocol {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("server selected subprotocol %q, want %q", printable(selected), Subprotocol)
	}
	raw, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("the 101 answer has a body of %T", resp.Body)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.carrier = newSender(raw, d.conn, nil)
	resp.Body = d.carrier
	return resp, nil
}

// upgradeError drops what http.Client and the library put around err.
func (d *dialer) upgradeError(ctx context.Context, err error) error {
	var up *UpgradeError
	if errors.As(err, &up) {
		return up
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	} else if inner := errors.Unwrap(err); inner != nil && strings.HasPrefix(err.Error(), "failed to WebSocket dial: ") {
		err = inner // we say what was attempted
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	return &UpgradeError{StatusCode: d.status, Err: err}
}
