package wsconn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/atls-ws/atls-ws/internal/outer"
)

// alone is a copy of a transport of which no connection serves a second request:
// what follows an upgrade that is refused is taken for one.
func alone(t *http.Transport) *http.Transport {
	t = t.Clone()
	t.MaxIdleConnsPerHost = -1 // unlike DisableKeepAlives it says nothing in the request
	return t
}

// sendEarly has the early message follow the request, of which all, or the last
// part, is about to be written to conn.
func (d *dialer) sendEarly(conn net.Conn, sent chan<- error) {
	hop, ok := outer.Lowest(conn).(interface{ AfterWrite(fn func()) })
	if !ok {
		sent <- errors.New("a message cannot follow the request on a connection of another's")
		return
	}
	frame := sealFrame(append(make([]byte, maxHead, maxHead+len(d.early)), d.early...), opBinary, true)
	hop.AfterWrite(func() {
		_, err := conn.Write(frame)
		sent <- err
	})
}

// sentEarly waits until the early message has gone: others come behind it.
func (d *dialer) sentEarly(ctx context.Context, sent <-chan error) error {
	if d.early == nil {
		return nil
	}
	select {
	case err := <-sent:
		if err != nil {
			err = fmt.Errorf("early message: %w", err)
		}
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
