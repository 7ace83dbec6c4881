package client

import (
	"errors"
	"net"
	"testing"
	"time"
)

func TestCloseWhileTheEarlyCarrierOpensClosesIt(t *testing.T) {
	near, far := net.Pipe()
	defer func() { _ = far.Close() }()
	opening, open := make(chan struct{}), make(chan struct{})
	d := new(dialer)
	d.users.Store(2) // the test is one of them
	e := &earlyConn{open: func(first []byte) (*carrier, error) {
		close(opening)
		<-open
		return &carrier{Conn: near, dialer: d}, nil
	}}
	if err := e.SetDeadline(time.Unix(1, 0)); err != nil {
		t.Error(err)
	}
	if _, err := e.Read(nil); !errors.Is(err, errNotOpen) {
		t.Error(err)
	}
	wrote := make(chan error)
	go func() {
		_, err := e.Write([]byte("x"))
		wrote <- err
	}()
	<-opening
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	close(open)
	if err := <-wrote; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if _, err := near.Write([]byte("x")); err == nil {
		t.Error("the carrier is open")
	}
	if err := e.failure(); err != nil { // the handshake's own reason is the better one
		t.Errorf("it is said not to have opened: %v", err)
	}
	if n := d.users.Load(); n != 1 {
		t.Errorf("%d users of the hop", n)
	}
}
