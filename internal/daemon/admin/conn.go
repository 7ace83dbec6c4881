package admin

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
	"time"
)

// Dial connects to a service of a device. A refusal is an *OutcomeError. The
// caller owns the connection. ctx bounds the dialing, not the connection.
func (c *Client) Dial(ctx context.Context, device, service string) (*Conn, error) {
	return c.DialWait(ctx, device, service, 0)
}

// DialWait is Dial that waits for a device that is not connected, as long as wait.
func (c *Client) DialWait(ctx context.Context, device, service string, wait time.Duration) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, wait+dialTimeout)
	defer cancel()
	conn, err := c.connect(ctx, "", "")
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	fail := func(err error) (*Conn, error) {
		_ = conn.Close()
		return nil, err
	}
	path := devicePath(device) + "/services/" + url.PathEscape(service)
	if wait > 0 {
		path += "?wait=" + wait.String()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://admin"+path, http.NoBody)
	if err != nil {
		return fail(err)
	}
	req.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {Protocol}}
	c.sign(req)
	if err := req.Write(conn); err != nil {
		return fail(c.explain(ctx, err))
	}
	ahead := bufio.NewReader(conn)
	resp, err := http.ReadResponse(ahead, req)
	if err != nil {
		return fail(c.explain(ctx, err))
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return fail(decode(resp, nil))
	}
	if !stop() {
		return fail(ctx.Err())
	}
	return &Conn{Conn: conn, ahead: ahead, client: c, stream: resp.Header.Get(StreamHeader)}, nil
}

// Conn is a connection to a service of a device: a net.Conn with half-close.
type Conn struct {
	net.Conn
	ahead  io.Reader
	client *Client
	stream string
}

// Read gives io.EOF only when the device has ended the stream: a socket cannot
// say why it ends, so the daemon is asked. What was cut off is an error.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.ahead.Read(p)
	if n == 0 && errors.Is(err, io.EOF) {
		err = c.verdict()
	}
	return n, err
}

// CloseWrite ends the direction to the device.
func (c *Conn) CloseWrite() error { return c.Conn.(interface{ CloseWrite() error }).CloseWrite() }

// Reset makes the coming Close a failure for the other end, where it can.
func (c *Conn) Reset() {
	if t, ok := c.Conn.(*tls.Conn); ok {
		_ = t.NetConn().Close() // TLS says no goodbye
	}
}

func (c *Conn) verdict() error {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	var o Outcome
	err := c.client.call(ctx, http.MethodGet, "/v1/streams/"+url.PathEscape(c.stream), "", nil, &o)
	switch {
	case err != nil:
		return fmt.Errorf("the connection broke: %w", err)
	case o.State != Ended:
		return fmt.Errorf("the connection broke: %s", o.Text)
	}
	return io.EOF
}
