package wsconn

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// Subprotocol is what a dialler offers and a server selects.
	Subprotocol = "atls.v1"
	// DefaultPath is where a server is expected to accept.
	DefaultPath = "/.well-known/atls"
	// MaxMessage is the size in bytes of the largest message that a Conn sends.
	MaxMessage = 64 << 10

	maxReceived = 128 << 10 // a larger message ends the connection with 1009

	closeTimeout  = 2 * time.Second        // Close, from call to return
	lingerTimeout = 500 * time.Millisecond // of that, the wait for the peer's close frame
)

// errPeerClosed is what Write gives after the other end has closed.
var errPeerClosed = fmt.Errorf("closed by the other end: %w", io.ErrClosedPipe)

// Conn is a byte stream over one WebSocket. Message boundaries mean nothing.
// Its methods may be called concurrently. It holds two goroutines at most, one
// and no buffer while idle.
type Conn struct {
	local, remote net.Addr
	outer         *tls.ConnectionState

	frames frameReader
	rx     *receiver
	tx     *sender

	closeOnce sync.Once
	closeErr  error
	readDone  chan struct{}
}

// newConn takes over an upgraded connection, of which head was read ahead.
func newConn(tx *sender, head []byte, outer *tls.ConnectionState) *Conn {
	c := &Conn{
		outer: outer,
		local: tx.hard.LocalAddr(), remote: tx.hard.RemoteAddr(),
		rx: newReceiver(), tx: tx,
		readDone: make(chan struct{}),
	}
	c.frames.raw = tx.raw
	if len(head) > 0 {
		c.frames.raw = &ahead{head: bytes.Clone(head), frames: &c.frames, raw: tx.raw}
	}
	go c.readLoop()
	return c
}

// ahead reads what net/http read of the first frames, and then raw: whoever
// holds it gets on, also when frames has left it.
type ahead struct {
	head   []byte
	frames *frameReader
	raw    io.Reader
}

func (a *ahead) Read(p []byte) (int, error) {
	if len(a.head) == 0 {
		return a.raw.Read(p)
	}
	n := copy(p, a.head)
	if a.head = a.head[n:]; len(a.head) == 0 {
		a.frames.raw = a.raw
	}
	return n, nil
}

// Read reads what the other end wrote, in order. It returns io.EOF once the
// other end has closed, and io.ErrUnexpectedEOF, wrapped, when the carrier
// ended without a close frame, as a proxy's idle timeout does it.
func (c *Conn) Read(p []byte) (int, error) { return c.rx.read(p) }

// Write queues p and returns as soon as all of it is queued, which is before
// it is sent; up to MaxMessage bytes wait. What accumulates while the carrier
// is busy goes out as one message. A failure to send shows on a later Write.
func (c *Conn) Write(p []byte) (int, error) { return c.tx.write(p) }

// ReadArrived is Read for what has arrived. It does not wait, whatever the
// deadline, and returns 0 and no error when there is nothing.
func (c *Conn) ReadArrived(p []byte) (int, error) { return c.rx.readArrived(p) }

// NotifyArrival has fn called once, when something can be read, the end and
// Close included; it returns false, and does not call fn, when that is so
// already. A later call replaces fn. fn has a goroutine of its own, for which
// Close does not wait; deadlines do not matter to it. A reader who uses this
// needs no goroutine while nothing comes.
func (c *Conn) NotifyArrival(fn func()) bool { return c.rx.notifyArrival(fn) }

// Cork holds back what is written until Uncork, so that it goes out as one
// message; MaxMessage bytes go out in any case.
func (c *Conn) Cork() { c.tx.cork() }

// Uncork ends Cork. It sends what was held back before it returns, unless it is
// being sent already.
func (c *Conn) Uncork() { c.tx.uncork() }

// SetWriteBuffer asks the kernel to hold about n bytes at most, or twice that, of
// what was written and has not arrived, where the carrier is a TCP connection.
func (c *Conn) SetWriteBuffer(n int) error {
	if tcp, ok := c.tx.hard.(interface{ SetWriteBuffer(int) error }); ok {
		return tcp.SetWriteBuffer(n)
	}
	return nil
}

// LocalAddr is the local address of the TCP connection below.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr is the address at the other end of the TCP connection below: a
// proxy's, if there is one in between.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// ConnectionState is that of the OUTER TLS connection, nil for ws://. It says
// nothing about who the peer is.
func (c *Conn) ConnectionState() *tls.ConnectionState { return c.outer }

// SetDeadline sets both deadlines. A call that times out returns
// os.ErrDeadlineExceeded; the connection lives on.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.rx.setDeadline(t), c.tx.setDeadline(t))
}

// SetReadDeadline bounds present and future Reads. Zero is no bound.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.rx.setDeadline(t) }

// SetWriteDeadline bounds present and future Writes. Zero is no bound.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.tx.setDeadline(t) }

// Close makes Read and Write return net.ErrClosed, sends what Write has
// queued and a close frame, and ends the connection. It takes two seconds at
// most and half a second when only the other end's close frame is missing. No
// goroutine is left. The error says that queued bytes were not sent. Further
// calls wait for the first and return the same.
func (c *Conn) Close() error {
	c.closeOnce.Do(func() {
		kill := time.AfterFunc(closeTimeout, c.abort)
		defer kill.Stop()
		c.rx.close(net.ErrClosed)
		c.closeErr = c.tx.drain()
		c.tx.bid(statusNormal, "")
		linger := time.AfterFunc(lingerTimeout, c.abort)
		defer linger.Stop()
		<-c.readDone // the other end has closed too, or is given up
		c.tx.hangUp()
		c.tx.wait()
		c.abort()
	})
	return c.closeErr
}

func (c *Conn) abort() { _ = c.tx.hard.Close() }

// readLoop owns the reading side. It parks without a buffer, and with so little
// on its stack that 2 KiB are enough over plain TCP.
func (c *Conn) readLoop() { c.end(c.receive()) }

// end takes leave of the other end for the reason that receive gave.
func (c *Conn) end(err error) {
	defer close(c.readDone)
	var wrong *frameError
	var bye *closeError
	why := readError(err)
	if errors.Is(why, io.EOF) {
		c.tx.fail(errPeerClosed)
	} else {
		c.tx.fail(why)
	}
	switch { // after no message can be made any more
	case errors.As(err, &wrong):
		c.tx.bid(wrong.status, wrong.text)
	case errors.As(err, &bye):
		c.tx.bid(bye.status, bye.reason)
	}
	c.rx.fail(why)
	if wrong != nil { // unread bytes would make a reset of our close frame
		bound := time.AfterFunc(lingerTimeout, c.abort)
		defer bound.Stop()
		_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c.frames.raw}, make([]byte, 4<<10))
	}
	c.tx.hangUp()
}

// receive takes frames until the end, and says what that is.
func (c *Conn) receive() error {
	size := int64(-1) // of the message whose parts come, -1 for none
	for {
		if err := c.frames.need(2); err != nil {
			return err
		}
		h, err := c.frames.header()
		if err != nil {
			return err
		}
		if err := h.check(c.tx.client); err != nil {
			return err
		}
		if h.opcode >= opClose {
			p, err := c.frames.control(h)
			if err != nil {
				return err
			}
			switch h.opcode {
			case opPing:
				c.tx.answer(p)
			case opClose:
				return parseClose(p)
			}
			continue
		}
		switch {
		case h.opcode == opText:
			return &frameError{statusUnsupported, "the other end sent a text message: binary messages only"}
		case (h.opcode == opContinuation) != (size >= 0):
			return &frameError{statusProtocol, "the other end sent a message in the middle of another, or the middle of none"}
		}
		if size = max(size, 0) + h.length; h.length > maxReceived || size > maxReceived {
			return &frameError{statusTooBig, fmt.Sprintf("the other end sent a message of more than %d bytes", maxReceived)}
		}
		if err := c.rx.fill(&c.frames, h); err != nil {
			return err
		}
		if h.fin {
			size = -1
		}
	}
}

// readError is how the end of the connection looks to a reader.
func readError(err error) error {
	var bye *closeError
	switch {
	case errors.As(err, &bye):
		switch bye.status {
		case statusNormal, statusGoingAway, statusNone:
			return io.EOF
		}
		return fmt.Errorf("closed by the other end: %w", bye)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("carrier ended without a close frame: %w", io.ErrUnexpectedEOF)
	}
	return err
}
