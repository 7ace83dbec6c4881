package session

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// arrivingConn is a carrier that can be read without waiting, as wsconn.Conn.
type arrivingConn struct {
	net.Conn
	mu      sync.Mutex
	cond    sync.Cond
	buf     []byte
	err     error
	notify  func()
	expired bool
}

func newArrivingConn(c net.Conn) *arrivingConn {
	a := &arrivingConn{Conn: c}
	a.cond.L = &a.mu
	go func() {
		p := make([]byte, 1000) // cuts records and frames anywhere
		for {
			n, err := c.Read(p)
			a.mu.Lock()
			a.buf, a.err = append(a.buf, p[:n]...), err
			fn := a.notify
			a.notify = nil
			a.cond.Broadcast()
			a.mu.Unlock()
			if fn != nil {
				fn()
			}
			if err != nil {
				return
			}
		}
	}()
	return a
}

func (a *arrivingConn) Read(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.buf) == 0 && a.err == nil && !a.expired {
		a.cond.Wait()
	}
	if a.expired {
		return 0, os.ErrDeadlineExceeded
	}
	return a.takeLocked(p)
}

func (a *arrivingConn) ReadArrived(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.takeLocked(p)
}

func (a *arrivingConn) takeLocked(p []byte) (int, error) {
	n := copy(p, a.buf)
	if a.buf = a.buf[n:]; n > 0 {
		return n, nil
	}
	return 0, a.err
}

func (a *arrivingConn) NotifyArrival(fn func()) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.buf) > 0 || a.err != nil {
		return false
	}
	a.notify = fn
	return true
}

// SetReadDeadline knows none, and one that is past.
func (a *arrivingConn) SetReadDeadline(t time.Time) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.expired = !t.IsZero() && time.Until(t) <= 0
	a.cond.Broadcast()
	return nil
}

func (a *arrivingConn) SetDeadline(t time.Time) error {
	return errors.Join(a.SetReadDeadline(t), a.SetWriteDeadline(t))
}
