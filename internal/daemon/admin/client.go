package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

const (
	grace       = 5 * time.Second // for the daemon's own word on a timeout
	dialTimeout = 15 * time.Second
	maxAnswer   = 64 << 20 // of a list of devices
)

// Client speaks to the daemon whose socket is at a path. It keeps no
// connection; its methods may be called concurrently.
type Client struct{ path string }

// NewClient makes a client; it does no I/O. An empty path is DefaultPath.
func NewClient(path string) *Client {
	if path == "" {
		path = DefaultPath()
	}
	return &Client{path}
}

// Devices lists the devices that are connected, by name.
func (c *Client) Devices(ctx context.Context) ([]Device, error) {
	var all []Device
	if err := c.call(ctx, http.MethodGet, "/v1/devices", "", nil, &all); err != nil {
		return nil, err
	}
	return all, nil
}

// Dial connects to a service of a device. A refusal is an *OutcomeError. The
// caller owns the connection. ctx bounds the dialing, not the connection.
func (c *Client) Dial(ctx context.Context, device, service string) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	t := &http.Transport{DialContext: c.dialSocket}
	defer t.CloseIdleConnections()
	h := http.Header{"Connection": {"Upgrade"}, "Upgrade": {Protocol}}
	resp, err := c.do(ctx, t, http.MethodPost, devicePath(device)+"/services/"+url.PathEscape(service), h, nil)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, decode(resp, nil)
	}
	// net/http's body of a 101 is the connection, with what it had read ahead.
	rwc, ok := resp.Body.(io.ReadWriteCloser)
	half, canHalf := resp.Body.(interface{ CloseWrite() error })
	if !ok || !canHalf {
		_ = resp.Body.Close()
		return nil, errors.New("net/http gave a connection without half-close")
	}
	return &Conn{rwc: rwc, half: half, client: c, stream: resp.Header.Get(StreamHeader)}, nil
}

func devicePath(device string) string { return "/v1/devices/" + url.PathEscape(device) }

// call makes one request and decodes its answer into out.
func (c *Client) call(ctx context.Context, method, path, contentType string, body []byte, out any) error {
	h := http.Header{}
	if contentType != "" {
		h.Set("Content-Type", contentType)
	}
	resp, err := c.do(ctx, &http.Transport{DisableKeepAlives: true, DialContext: c.dialSocket}, method, path, h, body)
	if err != nil {
		return err
	}
	return decode(resp, out)
}

func (c *Client) do(ctx context.Context, t *http.Transport, method, path string, h http.Header, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://admin"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header = h
	resp, err := t.RoundTrip(req)
	switch {
	case err == nil:
		return resp, nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, &OutcomeError{Outcome{State: Timeout, Text: "the server does not answer"}}
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	if op := (*net.OpError)(nil); errors.As(err, &op) && op.Op != "dial" || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, &BrokenError{err}
	}
	return nil, &UnreachableError{c.path, err}
}

func (c *Client) dialSocket(ctx context.Context, _, _ string) (net.Conn, error) {
	if err := CheckOwner(c.path); err != nil {
		return nil, err
	}
	return new(net.Dialer).DialContext(ctx, "unix", c.path)
}

// decode reads an answer: a failure is an *OutcomeError.
func decode(resp *http.Response, out any) error {
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("the server's answer: %w", err)
	}
	if resp.StatusCode == http.StatusOK && out != nil {
		if err := json.Unmarshal(body, out); err != nil {
			return fmt.Errorf("the server's answer: %w", err)
		}
		return nil
	}
	var o Outcome
	if json.Unmarshal(body, &o) != nil || o.State == "" {
		o = Outcome{State: Failed, Text: fmt.Sprintf("the admin API answers %s", resp.Status)}
	}
	return &OutcomeError{o}
}
