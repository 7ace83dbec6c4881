// Package limit bounds how many bytes a second connections move. It needs the
// standard library alone, because devices use it too.
package limit

import (
	"net"
	"sync"
	"time"
)

// Bucket lets a number of bytes a second pass, and after a pause up to a
// quarter of a second's at once. A nil Bucket lets everything pass.
type Bucket struct {
	rate  float64
	burst float64

	mu   sync.Mutex
	left float64 // below 0: bytes that somebody already waits for
	last time.Time
}

// NewBucket makes a Bucket; nil when rate is 0 or less.
func NewBucket(rate int64) *Bucket {
	if rate <= 0 {
		return nil
	}
	burst := max(float64(rate)/4, 1)
	return &Bucket{rate: float64(rate), burst: burst, left: burst, last: time.Now()}
}

// take takes n bytes and says how long to wait until they may pass.
func (b *Bucket) take(n int) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.left = min(b.burst, b.left+now.Sub(b.last).Seconds()*b.rate) - float64(n)
	b.last = now
	if b.left >= 0 {
		return 0
	}
	return time.Duration(-b.left / b.rate * float64(time.Second))
}

// chunk bounds what passes in one step, so that several connections that share
// a Bucket take turns.
func (b *Bucket) chunk() int { return int(max(1, min(b.burst, 32<<10))) }

// Rate is what bounds one direction: a connection's own bucket and one that it
// shares with others.
type Rate []*Bucket

// Conn bounds what is read from and written to a connection. It keeps the
// half-close and the Reset of the connection.
type Conn struct {
	net.Conn
	in, out Rate
	counts  *Peers // nil: nothing is counted
	closed  chan struct{}
	once    sync.Once
}

// NewConn wraps conn, which it then owns. It returns conn itself when nothing
// bounds it.
func NewConn(conn net.Conn, in, out Rate) net.Conn {
	if in = in.compact(); len(in) == 0 {
		if out = out.compact(); len(out) == 0 {
			return conn
		}
	}
	return &Conn{Conn: conn, in: in, out: out.compact(), closed: make(chan struct{})}
}

func (r Rate) compact() (set Rate) {
	for _, b := range r {
		if b != nil {
			set = append(set, b)
		}
	}
	return set
}

// step shortens p to what may pass in one step.
func (r Rate) step(p []byte) []byte {
	for _, b := range r {
		p = p[:min(len(p), b.chunk())]
	}
	return p
}

// wait takes n bytes and waits until they may pass.
func (c *Conn) wait(r Rate, n int) error {
	var d time.Duration
	for _, b := range r {
		d = max(d, b.take(n))
	}
	if d == 0 {
		return nil
	}
	if c.counts != nil {
		c.counts.slowed.Add(1)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-c.closed:
		return net.ErrClosed
	}
}

// Read waits after it has read: what the peer may still send is then bounded by
// what the connection buffers.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(c.in.step(p))
	if c.counts != nil {
		c.counts.in.Add(uint64(n))
	}
	if n > 0 {
		if werr := c.wait(c.in, n); werr != nil && err == nil {
			err = werr
		}
	}
	return n, err
}

func (c *Conn) Write(p []byte) (n int, err error) {
	for first := true; first || n < len(p); first = false {
		step := c.out.step(p[n:])
		if err := c.wait(c.out, len(step)); err != nil {
			return n, err
		}
		m, err := c.Conn.Write(step)
		if c.counts != nil {
			c.counts.out.Add(uint64(m))
		}
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// CloseWrite ends what this end sends, or both directions where the connection
// has no half-close.
func (c *Conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}

// Reset makes the end of the connection a failure, where it can.
func (c *Conn) Reset() {
	switch r := c.Conn.(type) {
	case interface{ Reset() }:
		r.Reset()
	case interface{ SetLinger(int) error }:
		_ = r.SetLinger(0)
	}
}

// Close ends the connection and whoever waits to read or write.
func (c *Conn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// Unwrap returns the connection that is bounded.
func (c *Conn) Unwrap() net.Conn { return c.Conn }
