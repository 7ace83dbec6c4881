package session

import (
	"net"
	"sync/atomic"
	"time"
)

// maxBeforeReady bounds what a peer can send before the session is ready.
const maxBeforeReady = 64 << 10

// Turn is the right of a handshake to compute.
type Turn interface {
	// Aside gives it back while the caller waits, and returns what waits for
	// another one.
	Aside() (back func())
}

// limitedConn fails reads after a number of bytes; a negative number is no limit.
type limitedConn struct {
	net.Conn
	left   atomic.Int64
	arrive arrival // Conn, if it can say what has arrived
	poll   bool    // reads do not wait; set by who reads

	turn   Turn          // before ready: not held while the network is waited for; may be nil
	wrote  time.Time     // before ready: when Conn was last written to, zero after an answer
	waited time.Duration // since then, for a turn: an answer may have come meanwhile
	rtt    time.Duration // the time to the first answer: later ones may not have waited for what was written, 0 not known
}

// arrival is a carrier that can be read without waiting.
type arrival interface {
	// ReadArrived reads what has arrived, which may be nothing.
	ReadArrived(p []byte) (int, error)
	// NotifyArrival calls fn once, when something can be read. It does not, and
	// returns false, when that is so already. fn must not wait.
	NotifyArrival(fn func()) bool
}

func newLimitedConn(conn net.Conn) *limitedConn {
	c := &limitedConn{Conn: conn}
	c.left.Store(maxBeforeReady)
	c.arrive, _ = conn.(arrival)
	return c
}

func (c *limitedConn) Read(p []byte) (int, error) {
	if c.poll {
		n, err := c.arrive.ReadArrived(p)
		if n == 0 && err == nil {
			err = errNothingYet
		}
		return n, err
	}
	left := c.left.Load()
	if left < 0 {
		return c.Conn.Read(p)
	}
	if left == 0 {
		return 0, ErrBeforeReady
	}
	if c.turn != nil {
		defer c.takeTurn(c.turn.Aside())
	}
	n, err := c.Conn.Read(p[:min(int64(len(p)), left)])
	c.left.CompareAndSwap(left, left-int64(n))
	if took := max(time.Since(c.wrote)-c.waited, 1); !c.wrote.IsZero() && c.rtt == 0 {
		c.rtt = took
	}
	c.wrote = time.Time{}
	return n, err
}

// Write is noted before ready, when one goroutine reads and writes.
func (c *limitedConn) Write(p []byte) (int, error) {
	if c.left.Load() < 0 {
		return c.Conn.Write(p)
	}
	if c.turn != nil {
		defer c.takeTurn(c.turn.Aside())
	}
	n, err := c.Conn.Write(p)
	c.wrote, c.waited = time.Now(), 0
	return n, err
}

func (c *limitedConn) takeTurn(back func()) {
	start := time.Now()
	back()
	c.waited += time.Since(start)
}

// errNothingYet is a temporary net.Error, so that crypto/tls reads on after it,
// also in the middle of a record.
var errNothingYet net.Error = nothingYet{}

type nothingYet struct{}

func (nothingYet) Error() string   { return "nothing has arrived" }
func (nothingYet) Timeout() bool   { return true }
func (nothingYet) Temporary() bool { return true }
