package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// Conn is a connection to a service of a device. One goroutine may read while
// another writes.
type Conn struct {
	rwc    io.ReadWriteCloser
	half   interface{ CloseWrite() error }
	client *Client
	stream string
}

// Read gives io.EOF only when the device has ended the stream: a socket cannot
// say why it ends, so the daemon is asked. What was cut off is an error.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.rwc.Read(p)
	if n == 0 && errors.Is(err, io.EOF) {
		err = c.verdict()
	}
	return n, err
}

func (c *Conn) Write(p []byte) (int, error) { return c.rwc.Write(p) }

// CloseWrite ends the direction to the device.
func (c *Conn) CloseWrite() error { return c.half.CloseWrite() }

// Close ends both directions.
func (c *Conn) Close() error { return c.rwc.Close() }

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
