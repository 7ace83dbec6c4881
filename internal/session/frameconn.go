package session

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// yamux's frame header: version u8 | type u8 | flags u16 | stream u32 | length u32.
const (
	frameHead     = 12
	frameData     = 0
	frameWindow   = 1
	framePing     = 2
	flagSYN       = 1
	flagACK       = 2
	flagRST       = 8
	maxPending    = 64 << 10 // bytes written and not yet on the inner TLS connection
	drainOnClose  = 2 * time.Second
	maxResetQueue = 1024
	maxPings      = 64                                  // of the peer's that are not answered: yamux has a goroutine for each
	flushBuffer   = maxPending + frameHead + writeChunk // a frame begun below maxPending may be a whole chunk
)

// An idle session holds no buffer.
var flushBuffers = sync.Pool{New: func() any { return new([flushBuffer]byte) }}

// frameConn sits between yamux and the inner TLS connection. It joins what
// yamux writes (a header and its body are two Writes) and sends it when the
// writer goes idle or maxPending is reached, so that small writes share records
// and carrier messages. It knows where frames begin, which lets a session ping
// and reset a stream: yamux has neither a ping that does not wait nor a reset.
type frameConn struct {
	conn    net.Conn  // the inner TLS connection
	carrier io.Closer // below it; closing it ends a write that hangs
	began   time.Time
	heard   atomic.Int64 // nanoseconds from began to the last byte from the peer
	flushed chan struct{}

	tx struct {
		sync.Mutex
		cond   sync.Cond
		bounds bounds
		buf    []byte   // to be sent
		extra  [][]byte // whole frames of ours, to go out at the next boundary
		err    error
		broken *time.Timer // set with err: ends the peer's direction too
		closed bool
	}
	rx struct {
		bounds bounds // used by yamux's reader alone
		pings  uint64 // of bounds, when they were last compared with the pongs
		sync.Mutex
		resets []uint32 // streams to be reset on this end too
		rest   []byte   // of frames that Read hands to yamux
	}
}

func newFrameConn(conn net.Conn, carrier io.Closer) *frameConn {
	c := &frameConn{conn: conn, carrier: carrier, began: time.Now(), flushed: make(chan struct{})}
	c.tx.cond.L = &c.tx
	go c.flush()
	return c
}

// bounds follows a byte stream of frames.
type bounds struct {
	head  [frameHead]byte
	nhead int
	body  uint32

	pings, pongs uint64 // that have passed
}

func (b *bounds) at() bool { return b.nhead == 0 && b.body == 0 }

func (b *bounds) pass(p []byte) {
	for len(p) > 0 {
		if b.body > 0 {
			n := min(uint32(len(p)), b.body)
			b.body -= n
			p = p[n:]
			continue
		}
		n := copy(b.head[b.nhead:], p)
		b.nhead += n
		p = p[n:]
		if b.nhead == frameHead {
			b.nhead = 0
			switch flags := binary.BigEndian.Uint16(b.head[2:]); {
			case b.head[1] == frameData:
				b.body = binary.BigEndian.Uint32(b.head[8:])
			case b.head[1] == framePing && flags&flagSYN != 0:
				b.pings++
			case b.head[1] == framePing && flags&flagACK != 0:
				b.pongs++
			}
		}
	}
}

func frame(typ byte, flags uint16, stream, length uint32) []byte {
	f := make([]byte, frameHead)
	f[1] = typ
	binary.BigEndian.PutUint16(f[2:], flags)
	binary.BigEndian.PutUint32(f[4:], stream)
	binary.BigEndian.PutUint32(f[8:], length)
	return f
}

// Write takes p, waiting while too much is pending. An error of an earlier
// write comes back here. It does not wait within a frame, nor refuse the rest
// of one: the flusher sends nothing before the frame is whole.
func (c *frameConn) Write(p []byte) (int, error) {
	c.tx.Lock()
	defer c.tx.Unlock()
	for c.tx.bounds.at() && len(c.tx.buf) >= maxPending && c.tx.err == nil && !c.tx.closed {
		c.tx.cond.Wait()
	}
	if c.tx.err != nil {
		return 0, c.tx.err
	}
	if c.tx.closed && c.tx.bounds.at() {
		return 0, net.ErrClosed
	}
	if c.tx.buf == nil {
		c.tx.buf = flushBuffers.Get().(*[flushBuffer]byte)[:0]
	}
	c.tx.buf = append(c.tx.buf, p...)
	c.tx.bounds.pass(p)
	c.cutInLocked()
	if c.tx.bounds.at() {
		c.tx.cond.Broadcast()
	}
	return len(p), nil
}

// cutIn sends a whole frame of ours between two of yamux's. It never waits.
func (c *frameConn) cutIn(f []byte) {
	c.tx.Lock()
	defer c.tx.Unlock()
	if c.tx.closed || len(c.tx.extra) >= maxResetQueue {
		return
	}
	c.tx.extra = append(c.tx.extra, f)
	c.cutInLocked()
	c.tx.cond.Broadcast()
}

func (c *frameConn) cutInLocked() {
	if len(c.tx.extra) == 0 || !c.tx.bounds.at() {
		return
	}
	for _, f := range c.tx.extra {
		c.tx.buf = append(c.tx.buf, f...)
	}
	c.tx.extra = nil
}

// ping asks the peer for a sign of life; the answer shows in silent.
func (c *frameConn) ping(id uint32) { c.cutIn(frame(framePing, flagSYN, 0, id)) }

// silent is how long nothing has come from the peer. It goes by the monotonic
// clock: that a device's clock is set, by years perhaps, is not silence.
func (c *frameConn) silent() time.Duration {
	return time.Since(c.began) - time.Duration(c.heard.Load())
}

// reset ends a stream at both ends: the peer gets a reset frame, and yamux on
// this end reads one as soon as the next frame has arrived.
func (c *frameConn) reset(stream uint32) {
	c.cutIn(frame(frameWindow, flagRST, stream, 0))
	c.rx.Lock()
	c.rx.resets = append(c.rx.resets, stream)
	c.rx.Unlock()
}

// flush sends what is pending whenever the connection is free.
func (c *frameConn) flush() {
	defer close(c.flushed)
	c.tx.Lock()
	defer c.tx.Unlock()
	for {
		for c.tx.err == nil && (len(c.tx.buf) == 0 || !c.tx.bounds.at()) {
			if c.tx.closed && c.tx.bounds.at() {
				return
			}
			c.tx.cond.Wait()
		}
		if c.tx.err != nil {
			return
		}
		out := c.tx.buf
		c.tx.buf = nil
		c.tx.Unlock()
		_, err := c.conn.Write(out)
		if cap(out) == flushBuffer {
			flushBuffers.Put((*[flushBuffer]byte)(out[:flushBuffer]))
		}
		c.tx.Lock()
		if err != nil {
			c.tx.err = err
			// yamux would find out with its next write, which may be never. What
			// has arrived is read first: it may say why.
			c.tx.broken = time.AfterFunc(byeWait, func() { _ = c.carrier.Close() })
		}
		c.tx.cond.Broadcast()
	}
}

// Read hands the peer's bytes to yamux, and our resets between two frames.
func (c *frameConn) Read(p []byte) (int, error) {
	if n := c.readResets(p); n > 0 {
		return n, nil
	}
	n, err := c.conn.Read(p)
	if n > 0 {
		c.heard.Store(int64(time.Since(c.began)))
		c.rx.bounds.pass(p[:n])
		if c.pingFlood() {
			return 0, errPings
		}
	}
	return n, err
}

// pingFlood says whether the peer goes on pinging without taking our answers.
func (c *frameConn) pingFlood() bool {
	if c.rx.pings == c.rx.bounds.pings {
		return false
	}
	c.rx.pings = c.rx.bounds.pings
	c.tx.Lock()
	defer c.tx.Unlock()
	return c.rx.pings-c.tx.bounds.pongs > maxPings
}

func (c *frameConn) readResets(p []byte) int {
	if !c.rx.bounds.at() {
		return 0
	}
	if len(c.rx.rest) == 0 {
		c.rx.Lock()
		for _, id := range c.rx.resets {
			c.rx.rest = append(c.rx.rest, frame(frameWindow, flagRST, id, 0)...)
		}
		c.rx.resets = nil
		c.rx.Unlock()
	}
	n := copy(p, c.rx.rest)
	c.rx.rest = c.rx.rest[n:]
	return n
}

// Close sends what was written, for at most drainOnClose, closes the
// connection and waits for the flusher.
func (c *frameConn) Close() error {
	c.tx.Lock()
	c.tx.closed = true
	c.tx.cond.Broadcast()
	c.tx.Unlock()
	bound := time.AfterFunc(drainOnClose, c.abort)
	<-c.flushed
	bound.Stop()
	c.tx.Lock()
	if c.tx.broken != nil {
		c.tx.broken.Stop()
	}
	c.tx.Unlock()
	return c.conn.Close()
}

// abort makes the pending and all later writes fail, so that Close need not drain.
func (c *frameConn) abort() {
	c.tx.Lock()
	if c.tx.err == nil {
		c.tx.err = net.ErrClosed
	}
	c.tx.cond.Broadcast()
	c.tx.Unlock()
	_ = c.carrier.Close()
}
