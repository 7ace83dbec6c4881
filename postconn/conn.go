package postconn

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/atls-ws/atls-ws/internal/deadline"
)

const (
	// ContentType is that of all requests and answers.
	ContentType = "application/atls"
	// DefaultPath is where a server is expected to serve a Handler.
	DefaultPath = "/.well-known/atls"
	// MaxFirstBody is the size in bytes of the largest first request.
	MaxFirstBody = 16 << 10
	// MaxBody is the size in bytes of the largest later request, and answer.
	MaxBody = 64 << 10

	maxWindow    = 128 << 10        // kept per direction and end, in bytes
	maxHold      = 20 * time.Second // a request waits for something to answer, or for room
	flushDelay   = 5 * time.Millisecond
	closeTimeout = 2 * time.Second
)

// errPeerClosed is what Write gives after the other end has closed.
var errPeerClosed = fmt.Errorf("closed by the other end: %w", io.ErrClosedPipe)

// Conn is a byte stream over POST requests, at either end. Its methods may be
// called concurrently. It keeps no buffer while idle, and no goroutine but that
// of the request which is held.
type Conn struct {
	role role

	mu            sync.Mutex
	cond          sync.Cond
	readDeadline  deadline.Deadline
	writeDeadline deadline.Deadline
	in            window    // received, from the first unread byte on
	out           window    // written, from the first byte on that was not acknowledged
	sent          uint64    // the bytes of out before it are in a request or an answer
	written       time.Time // when the oldest byte from sent on was written
	readers       int       // blocked in Read
	inEnd         bool      // no byte follows in: the other end has closed
	closed        bool
	err           error // why the connection is dead
	local, remote net.Addr
	outer         *tls.ConnectionState

	closeOnce sync.Once
	closeErr  error
}

// role is what the two ends do not share.
type role interface {
	// changedLocked is told of what may be a reason to send: bytes written, bytes
	// read, a Read that blocks.
	changedLocked()
	established()
	close() error
}

func (c *Conn) init(r role) {
	c.role = r
	c.cond.L = &c.mu
}

// Read reads what the other end wrote, in order. It returns io.EOF once the
// other end has closed, an *AnswerError when HTTP answers something else, and
// io.ErrUnexpectedEOF, wrapped, when the requests of the other end stay away.
// A Read that blocks sends what was written before it.
func (c *Conn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	blocked := false
	for {
		switch {
		case c.closed:
			return 0, net.ErrClosed
		case c.readDeadline.ExpiredLocked():
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		case c.in.n > 0:
			n := c.in.take(p)
			c.changedLocked()
			return n, nil
		case c.inEnd:
			return 0, io.EOF
		case c.err != nil:
			return 0, c.err
		}
		if !blocked { // once: two readers would wake each other for ever
			blocked = true
			c.readers++
			defer func() { c.readers-- }()
			c.changedLocked()
			continue
		}
		c.cond.Wait()
	}
}

// Write queues p and returns as soon as all of it is queued, which is before it
// is sent; 128 KiB are kept until the other end has them. A failure to send
// shows on a later Write. What was written goes out when a Read blocks, when it
// fills a request or an answer, or else a few milliseconds later.
func (c *Conn) Write(p []byte) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.closed:
			return n, net.ErrClosed
		case c.inEnd:
			return n, errPeerClosed
		case c.err != nil:
			return n, c.err
		case c.writeDeadline.ExpiredLocked():
			return n, os.ErrDeadlineExceeded
		}
		if k := min(maxWindow-c.out.n, len(p)); k > 0 {
			if c.out.end() == c.sent {
				c.written = time.Now()
			}
			c.out.append(p[:k])
			p, n = p[k:], n+k
			c.changedLocked()
		}
		if len(p) == 0 {
			return n, nil
		}
		c.cond.Wait()
	}
}

func (c *Conn) changedLocked() {
	c.cond.Broadcast()
	c.role.changedLocked()
}

// blockedLocked says that the consumer has read everything and wants more.
func (c *Conn) blockedLocked() bool { return c.readers > 0 && c.in.n == 0 }

// failLocked ends the connection; what has arrived can still be read.
func (c *Conn) failLocked(err error) {
	if c.err == nil {
		c.err = err
	}
	c.out.truncate()
	c.cond.Broadcast()
}

// Established says that the session on the connection is ready. At a server the
// connection dies half a minute after its first request unless this is called,
// and from then on two minutes after its last. At a client it does nothing.
func (c *Conn) Established() { c.role.established() }

// LocalAddr is the local address of the TCP connection which carried the first
// answered request. At a client it is a name without meaning before.
func (c *Conn) LocalAddr() net.Addr {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.local
}

// RemoteAddr is the address at the other end of that TCP connection: a proxy's,
// if there is one in between. At a client it is the URL's host before.
func (c *Conn) RemoteAddr() net.Addr {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.remote
}

// ConnectionState is that of the OUTER TLS connection which carried the first
// answered request: nil for http, and at a client before an answer. Later
// requests may use others. It says nothing about who the peer is.
func (c *Conn) ConnectionState() *tls.ConnectionState {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.outer
}

// SetDeadline sets both deadlines. A call that times out returns
// os.ErrDeadlineExceeded; the connection lives on.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline bounds present and future Reads. Zero is no bound.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadline(&c.readDeadline, t) }

// SetWriteDeadline bounds present and future Writes. Zero is no bound.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadline(&c.writeDeadline, t) }

func (c *Conn) setDeadline(d *deadline.Deadline, t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	d.SetLocked(t, &c.cond)
	return nil
}

// Close makes Read and Write return net.ErrClosed and tells the other end, after
// what was written, that no more follows. A client sends it, within two seconds,
// and leaves no goroutine; the error says that not all was sent. A server gives
// it to the requests that are there, and what is left to later ones. Further
// calls wait for the first and return the same.
func (c *Conn) Close() error {
	c.closeOnce.Do(func() { c.closeErr = c.role.close() })
	return c.closeErr
}

// closeLocked is what closing is at both ends.
func (c *Conn) closeLocked() {
	c.closed = true
	c.in.discard(c.in.end())
	c.readDeadline.StopLocked()
	c.writeDeadline.StopLocked()
	c.cond.Broadcast()
}

// addr is an address that is not known, or is none of TCP's.
type addr string

func (addr) Network() string  { return "post" }
func (a addr) String() string { return string(a) }
