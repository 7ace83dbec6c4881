package doctor

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/atls-ws/atls-ws/internal/proto"
	"github.com/atls-ws/atls-ws/internal/session"
	"github.com/atls-ws/atls-ws/postconn"
	"github.com/atls-ws/atls-ws/wsconn"
)

const (
	openTimeout  = 10 * time.Second
	readyTimeout = 15 * time.Second
)

// webSocket goes the way of the WebSocket carrier.
func (d *doctor) webSocket(ctx context.Context) {
	began := time.Now()
	openCtx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	conn, err := wsconn.Dial(openCtx, d.o.URL.String(), &wsconn.DialOptions{Transport: d.hop.Transport})
	if d.failed("websocket: upgrade", began, err) {
		d.seen.ws.err = err
		return
	}
	d.seen.ws.opened = true
	d.step("websocket: upgrade", OK, began, "101, subprotocol %s", wsconn.Subprotocol)
	d.inner(ctx, "websocket", "frames", &d.seen.ws, conn, conn.ConnectionState)
}

// postTrack goes the way of the POST carrier, and holds a POST beside it.
func (d *doctor) postTrack(ctx context.Context) {
	held := make(chan struct{})
	go func() {
		defer close(held)
		d.held(ctx)
	}()
	conn, err := postconn.Dial(ctx, d.o.URL.String(), &postconn.DialOptions{Transport: d.hop.Transport})
	if d.failed("post: first answer", time.Now(), err) {
		d.seen.post.err = err
	} else {
		d.inner(ctx, "post", "first answer", &d.seen.post, conn, conn.ConnectionState)
		d.seen.post.opened = d.seen.post.frames
	}
	<-held
}

// inner does the inner handshake on a carrier and waits for Ready. It owns conn.
func (d *doctor) inner(ctx context.Context, carrier, echo string, t *track, conn net.Conn, outer func() *tls.ConnectionState) {
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	began := time.Now()
	first := &firstRead{Conn: conn, came: func() {
		t.frames = true
		d.step(carrier+": "+echo, OK, began, "what was sent inside is answered")
	}}
	handshaken := func(cs tls.ConnectionState) {
		t.handshake, t.server = true, cs.PeerCertificates[0]
		how := "verified"
		if d.o.Inner.RootCAs == nil {
			how = "not verified: no CA is given"
		}
		d.step(carrier+": inner handshake", OK, began, "the server is %q, issued by %q (%s)", t.server.Subject, t.server.Issuer, how)
	}
	var err error
	if d.o.Inner.RootCAs == nil || len(d.o.Inner.Certificates) == 0 {
		err = d.handshakeOnly(ctx, first, handshaken)
	} else {
		err = d.ready(ctx, carrier, t, first, handshaken, outer)
	}
	if err == nil {
		return
	}
	t.err = err
	switch {
	case !t.frames:
		d.step(carrier+": "+echo, Failed, began, "%v", err)
	case !t.handshake:
		d.step(carrier+": inner handshake", Failed, began, "%v", err)
	default:
		d.step(carrier+": ready", Failed, began, "%v", err)
	}
}

// handshakeOnly is for a person without a device's certificate: the server will
// refuse that, after a TLS 1.3 client's handshake is done.
func (d *doctor) handshakeOnly(ctx context.Context, conn net.Conn, done func(tls.ConnectionState)) error {
	c := d.o.Inner.Clone()
	c.MinVersion, c.NextProtos = tls.VersionTLS13, []string{proto.ALPNMux}
	if c.RootCAs == nil {
		c.InsecureSkipVerify = true // to look at the certificate: nothing is sent to its owner
	}
	tc := tls.Client(conn, c)
	if err := tc.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("inner handshake: %w", err)
	}
	done(tc.ConnectionState())
	return nil
}

// ready makes a session that asks for Ready alone, so that it takes no other
// session's place.
func (d *doctor) ready(ctx context.Context, carrier string, t *track, conn net.Conn, done func(tls.ConnectionState), outer func() *tls.ConnectionState) error {
	inner := d.o.Inner.Clone()
	var state tls.ConnectionState
	inner.VerifyConnection = func(cs tls.ConnectionState) error {
		state = cs
		return nil
	}
	began := time.Now()
	s, err := session.Client(ctx, conn, &session.Config{TLS: inner, Hello: func() session.Hello {
		done(state)
		h := session.Hello{Software: d.o.Software, Carrier: carrier, Probe: true}
		if cs := outer(); cs != nil {
			h.Outer = &session.OuterReport{TLSVersion: versionName(cs)}
			h.Outer.Exporter, _ = cs.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
			_, verifyErr := d.met()
			h.Outer.Verified = verifyErr == nil
		}
		return h
	}})
	if err != nil {
		return err
	}
	r := s.Ready()
	t.ready, t.intercepted = true, r.Intercepted
	d.step(carrier+": ready", OK, began, "the server accepts this device as %s", r.Device)
	return s.Close()
}

// held asks the server to hold a POST, as the carrier does it to get signals.
func (d *doctor) held(ctx context.Context) {
	if d.o.Hold <= 0 {
		return
	}
	const name = "post: held request"
	ctx, cancel := context.WithTimeout(ctx, d.o.Hold+openTimeout+openTimeout)
	defer cancel()
	hello := clientHello(d.o.Inner)
	began := time.Now()
	resp, _, err := d.post(ctx, hello, http.Header{"Atls-Offset": {"0"}, "Atls-Ack": {"0"}, "Prefer": {"wait=5"}})
	if err != nil {
		d.step(name, Skipped, began, "no POST gets through: %v", err)
		return
	}
	id := resp.Header.Get("Atls-Session")
	for _, c := range resp.Cookies() {
		if c.Name == "atls" {
			id = c.Value
		}
	}
	began = time.Now()
	_, _, err = d.post(ctx, nil, http.Header{
		"Atls-Session": {id}, "Cookie": {"atls=" + id},
		"Atls-Offset": {fmt.Sprint(len(hello))}, "Atls-Ack": {fmt.Sprint(resp.ContentLength)}, "Prefer": {fmt.Sprintf("wait=%d", int(d.o.Hold.Seconds()))},
	})
	took := time.Since(began)
	switch {
	case err != nil:
		d.seen.cut = took
		d.step(name, Warn, began, "cut: %v", err)
	case took < d.o.Hold/2:
		d.seen.cut = took
		d.step(name, Warn, began, "answered early, %s after it was asked to wait %s", took.Round(time.Millisecond), d.o.Hold)
	default:
		d.step(name, OK, began, "held as long as was asked for, %s", d.o.Hold)
	}
}

// post makes one request of the POST carrier and reads its answer.
func (d *doctor) post(ctx context.Context, body []byte, h http.Header) (*http.Response, []byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, d.o.URL.String(), strings.NewReader(string(body)))
	if err != nil {
		return nil, nil, err
	}
	r.Header = h
	r.Header.Set("Content-Type", postconn.ContentType)
	resp, err := d.hop.RoundTrip(r)
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != postconn.ContentType {
		return nil, nil, answerError(resp)
	}
	data, err := readAll(resp)
	return resp, data, err
}

// firstRead tells when the first bytes come.
type firstRead struct {
	net.Conn
	told atomic.Bool
	came func()
}

func (f *firstRead) Read(p []byte) (int, error) {
	n, err := f.Conn.Read(p)
	if n > 0 && !f.told.Swap(true) {
		f.came()
	}
	return n, err
}

// clientHello is the first flight of an inner handshake.
func clientHello(c *tls.Config) []byte {
	a, b := net.Pipe()
	cfg := c.Clone()
	cfg.MinVersion, cfg.NextProtos, cfg.InsecureSkipVerify = tls.VersionTLS13, []string{proto.ALPNMux}, true // the handshake goes no further
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = tls.Client(a, cfg).Handshake() // ends when b is closed
		_ = a.Close()
	}()
	buf := make([]byte, 16<<10)
	n, err := b.Read(buf)
	_ = b.Close()
	<-done
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return nil
	}
	return buf[:n]
}
