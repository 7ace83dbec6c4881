package wsconn

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"

	"github.com/coder/websocket"

	"github.com/atls-ws/atls-ws/internal/answer"
	"github.com/atls-ws/atls-ws/internal/outer"
)

// UpgradeError says what HTTP answered instead of a WebSocket. Its StatusCode is
// 0 when there was no answer at all.
type UpgradeError = answer.Error

const op = "websocket upgrade"

// DialOptions configure Dial. The zero value works.
type DialOptions struct {
	// TLS is the OUTER configuration for https and wss; nil is the default of
	// crypto/tls. It is cloned, and its ALPN set to http/1.1: the upgrade needs it.
	TLS *tls.Config
	// Proxy picks the proxy (http, https, socks5); nil is what HTTPS_PROXY,
	// ALL_PROXY and NO_PROXY say. Userinfo in the proxy's URL is sent to it.
	Proxy func(*http.Request) (*url.URL, error)
	// DialContext makes the TCP connection; nil is a net.Dialer's.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// Transport, if set, makes the outer connection instead of the three above.
	// It must speak HTTP/1.1 only. The caller closes what it leaves idle, which
	// after a clean refusal is a connection that can be used again.
	Transport *http.Transport
	// Header is sent with the upgrade request.
	Header http.Header
	// Early is a first message, of at most MaxMessage bytes, that is sent behind the
	// upgrade request without waiting for the answer: a round trip less. RFC 6455, 4.1,
	// wants the client to wait, and a box on the way may refuse or lose it, so it is
	// for networks that are known. The Conn's first Write follows it. The connection
	// is a new one, and is closed when the upgrade is refused.
	Early []byte
}

// Dial opens a WebSocket connection to url (https, wss, http or ws). The caller
// owns the Conn. ctx bounds the handshake, not the connection. It follows no
// redirect. An error of the handshake is an *UpgradeError.
func Dial(ctx context.Context, url string, o *DialOptions) (*Conn, error) {
	if o == nil {
		o = &DialOptions{}
	}
	if len(o.Early) > MaxMessage {
		return nil, &UpgradeError{Op: op, Err: fmt.Errorf("an early message of %d bytes, at most %d", len(o.Early), MaxMessage)}
	}
	d := &dialer{transport: o.Transport, early: o.Early}
	fail := func() {}
	if d.transport == nil {
		hop := outer.New(outer.Options{TLS: o.TLS, Proxy: o.Proxy, DialContext: o.DialContext})
		d.transport, fail = hop.Transport, hop.Close
	}
	if d.early != nil {
		d.transport = alone(d.transport)
	}
	ws, resp, err := websocket.Dial(ctx, url, &websocket.DialOptions{
		HTTPClient:      &http.Client{Transport: d},
		HTTPHeader:      o.Header,
		Subprotocols:    []string{Subprotocol},
		CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		if d.carrier != nil {
			_ = d.carrier.hard.Close()
		}
		fail()
		return nil, d.upgradeError(ctx, err)
	}
	_ = ws.CloseNow() // of nowhere: without it the garbage collector would not free ws
	return newConn(d.carrier, nil, resp.TLS), nil
}

// dialer is the round tripper of one upgrade. It keeps the connection from the
// library.
type dialer struct {
	transport *http.Transport
	early     []byte
	carrier   *sender
	status    int // of the answer, 0 without
}

// RoundTrip sends the upgrade. It returns a 101 only; any
// other answer is an error, so that http.Client sees no redirect to follow.
func (d *dialer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	// For a request with "Upgrade: websocket" the transport offers no ALPN. It
	// looks under the canonical name only; on the wire the case means nothing.
	r.Header["upgrade"] = r.Header["Upgrade"]
	delete(r.Header, "Upgrade")
	var conn net.Conn
	sent := make(chan error, 1)
	r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { conn = info.Conn },
		WroteRequest: func(info httptrace.WroteRequestInfo) { // to a buffer, of which the end is not sent yet
			if d.early != nil && info.Err == nil {
				d.sendEarly(conn, sent)
			}
		},
	}))
	resp, err := d.transport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	d.status = resp.StatusCode
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, answer.Read(op, resp)
	}
	if err := d.sentEarly(r.Context(), sent); err != nil {
		_ = resp.Body.Close()
		return nil, err
	}
	if selected := resp.Header.Get("Sec-WebSocket-Protocol"); selected != Subprotocol {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("server selected subprotocol %q, want %q", answer.Printable(selected), Subprotocol)
	}
	raw, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("the 101 answer has a body of %T", resp.Body)
	}
	d.carrier = newSender(raw, outer.Lowest(conn), true, resp.TLS != nil)
	resp.Body = struct {
		io.Reader
		io.Writer
		io.Closer
	}{nowhere{}, nowhere{}, nowhere{}}
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
	return &UpgradeError{Op: op, StatusCode: d.status, Err: err}
}
