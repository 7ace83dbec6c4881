package admin

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
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
	req.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {FramesProtocol}}
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
	keepalive, err := time.ParseDuration(resp.Header.Get(KeepaliveHeader))
	if err != nil || keepalive < time.Second {
		return fail(fmt.Errorf("the server's answer: %s: want a duration of at least 1s", KeepaliveHeader))
	}
	if !stop() {
		return fail(ctx.Err())
	}
	return &Conn{Frames: NewFrames(conn, ahead, keepalive), client: c, stream: resp.Header.Get(StreamHeader)}, nil
}

// Conn is a connection to a service of a device: a net.Conn with half-close.
type Conn struct {
	*Frames
	client *Client
	stream string
}

// Read gives io.EOF only when the device has ended the stream. Where a connection
// breaks, the server is asked why.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.Frames.Read(p)
	switch {
	case err == nil, errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrDeadlineExceeded):
		return n, err
	case errors.Is(err, errCut):
		if text := c.reason(); text != "" {
			err = errors.New(text)
		}
	}
	return n, fmt.Errorf("%s: %w", c.client.broke(), err)
}

// Write says, as Read does, whose connection broke.
func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.Frames.Write(p)
	if err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("%s: %w", c.client.broke(), err)
	}
	return n, err
}

func (c *Client) broke() string {
	if c.remote != nil && c.remote.node != nil {
		return "the connection to the node " + c.remote.node.name + " broke"
	}
	return "the connection broke"
}

// reason is why the server has cut the stream; empty when it does not say.
func (c *Conn) reason() string {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	var o Outcome
	if c.client.call(ctx, http.MethodGet, "/v1/streams/"+url.PathEscape(c.stream), "", nil, &o) != nil || o.State == Ended {
		return ""
	}
	return o.Text
}
