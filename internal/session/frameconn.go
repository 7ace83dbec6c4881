package session

import (
	"encoding/binary"
	"net"
	"slices"
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
	frameGoAway   = 3
	flagSYN       = 1
	flagACK       = 2
	flagRST       = 8
	maxPending    = 64 << 10 // bytes written and not yet on the inner TLS connection
	drainOnClose  = 2 * time.Second
	maxResetQueue = 1024
	maxPings      = 64                                  // of the peer's whose answers wait to be sent
	flushBuffer   = maxPending + frameHead + writeChunk // a frame begun below maxPending may be a whole chunk
	// maxBatch is what goes into one carrier message of 64 KiB as records of inner
	// TLS, sixteen at most, each with 22 bytes of its own.
	maxBatch = 64<<10 - 16*32

	// The peer's TLS keeps a buffer as large as the largest record that it has
	// received, for as long as the session lives: 38 KiB of 16 KiB records, 6 KiB
	// of these. So a session that was idle sends small ones, until it has sent
	// enough for the difference in CPU to count.
	smallRecord  = 4 << 10
	smallRecords = 1 << 20 // bytes
	pauseAfter   = 5 * time.Second
)

// An idle session holds no buffer.
var flushBuffers = sync.Pool{New: func() any { return new([flushBuffer]byte) }}

// corker is a carrier that can gather several writes into one message. Uncork
// sends what was gathered before it returns, if nobody else is sending.
type corker interface {
	Cork()
	Uncork()
}

// frameConn sits between yamux and the inner TLS connection. It joins what
// yamux writes (a header and its body are two Writes) and sends it when the
// writer goes idle or maxPending is reached, so that small writes share records
// and carrier messages. It knows where frames begin, which lets a session ping,
// answer pings, and reset a stream, without yamux and while there is none.
type frameConn struct {
	conn     net.Conn                // the inner TLS connection
	below    *limitedConn            // what conn reads from
	carrier  net.Conn                // below it; closing it ends a write that hangs
	cork     corker                  // the carrier, if it is one
	lastRead atomic.Int64            // Unix nanoseconds of the last byte from the peer
	ponged   atomic.Uint32           // the id of the last ping that was answered
	away     atomic.Bool             // the peer wants no new streams, of this yamux or a later one
	mayPark  func(between bool) bool // asked when a Read's deadline has passed
	streamIDs

	tx struct {
		sync.Mutex
		cond    sync.Cond
		bounds  bounds
		buf     []byte   // to be sent
		first   []byte   // to be sent before buf: frames of streams that are urgent
		urgent  []uint32 // streams
		soon    []uint32 // streams that are urgent once buf has been taken: some of theirs may be in it
		now     bool     // the frame at hand is of one of them
		extra   [][]byte // whole frames of ours, to go out at the next boundary
		pongs   int      // of those
		err     error
		broken  *time.Timer // set with err: ends the peer's direction too
		closed  bool
		running bool // the flusher
		stay    bool // the flusher stays when nothing is left: starting one costs 2 us
	}
	rx frameReader

	sentAt time.Time // of the flusher: when it last sent
	sent   int       // of the flusher: bytes since a pause
}

func newFrameConn(conn net.Conn, below *limitedConn, carrier net.Conn) *frameConn {
	c := &frameConn{conn: conn, below: below, carrier: carrier}
	c.cork, _ = carrier.(corker)
	c.tx.cond.L = &c.tx
	c.lastRead.Store(time.Now().UnixNano())
	return c
}

// bounds follows a byte stream of frames.
type bounds struct {
	head  [frameHead]byte
	nhead int
	body  uint32
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
			if b.head[1] == frameData {
				b.body = binary.BigEndian.Uint32(b.head[8:])
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
	head := c.tx.bounds.at() && len(p) >= frameHead // yamux writes headers whole
	if head {
		for c.fullLocked(binary.BigEndian.Uint32(p[4:])) && c.tx.err == nil && !c.tx.closed {
			c.tx.cond.Wait()
		}
		if c.tx.closed && c.tx.err == nil {
			return 0, net.ErrClosed
		}
	}
	if c.tx.err != nil {
		return 0, c.tx.err
	}
	to := &c.tx.first
	if !c.tx.now {
		to = &c.tx.buf
		if *to == nil {
			*to = flushBuffers.Get().(*[flushBuffer]byte)[:0]
		}
	}
	*to = append(*to, p...)
	if head {
		c.outward((*to)[len(*to)-len(p):])
	}
	c.tx.bounds.pass(p)
	c.cutInLocked()
	c.flushLocked()
	return len(p), nil
}

// fullLocked chooses where the frame of a stream goes, and says whether to wait
// for room there. A peer that takes nothing makes as many acks as it sends signals.
func (c *frameConn) fullLocked(stream uint32) bool {
	if c.tx.now = slices.Contains(c.tx.urgent, stream); c.tx.now {
		return len(c.tx.first) >= maxPending
	}
	return len(c.tx.buf) >= maxPending
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
	c.flushLocked()
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

// ping asks the peer for a sign of life; the answer shows in lastRead, and its
// id in ponged.
func (c *frameConn) ping(id uint32) { c.cutIn(frame(framePing, flagSYN, 0, id)) }

// pong answers a ping, but no more of them than the peer takes.
func (c *frameConn) pong(id uint32) error {
	c.tx.Lock()
	c.tx.pongs++
	n := c.tx.pongs
	c.tx.Unlock()
	if n > maxPings {
		return errPings
	}
	c.cutIn(frame(framePing, flagACK, 0, id))
	return nil
}

// reset ends a stream at both ends: the peer gets a reset frame, and yamux on
// this end reads one as soon as the next frame has arrived.
func (c *frameConn) reset(stream uint32) {
	f := frame(frameWindow, flagRST, stream, 0)
	c.outward(f)
	c.cutIn(f)
	c.rx.inject(frame(frameWindow, flagRST, stream, 0))
}

// hurry lets the frames of a stream overtake those of others that wait to be
// sent, but none of its own.
func (c *frameConn) hurry(stream uint32) {
	c.tx.Lock()
	defer c.tx.Unlock()
	c.forgetLocked(stream)
	if len(c.tx.buf) > 0 {
		c.tx.soon = append(c.tx.soon, stream)
	} else {
		c.tx.urgent = append(c.tx.urgent, stream)
	}
}

// forget ends hurry. What waits of the stream is sent first, still.
func (c *frameConn) forget(stream uint32) {
	c.tx.Lock()
	defer c.tx.Unlock()
	c.forgetLocked(stream)
}

func (c *frameConn) forgetLocked(stream uint32) {
	for _, streams := range []*[]uint32{&c.tx.urgent, &c.tx.soon} {
		*streams = slices.DeleteFunc(*streams, func(s uint32) bool { return s == stream })
	}
}

// stay says whether to keep a flusher for frequent use.
func (c *frameConn) stay(yes bool) {
	c.tx.Lock()
	defer c.tx.Unlock()
	c.tx.stay = yes
	c.tx.cond.Broadcast()
}

// flushLocked sees to it that what is pending is sent.
func (c *frameConn) flushLocked() {
	if !c.tx.bounds.at() {
		return
	}
	c.tx.cond.Broadcast()
	if !c.tx.running {
		c.tx.running = true
		go c.flush()
	}
}

// quiet says whether nothing waits to be sent.
func (c *frameConn) quiet() bool {
	c.tx.Lock()
	defer c.tx.Unlock()
	return len(c.tx.buf)+len(c.tx.first)+len(c.tx.extra) == 0
}

func (c *frameConn) pendingLocked() bool {
	return len(c.tx.buf)+len(c.tx.first) > 0 && c.tx.bounds.at()
}

// flush sends what is pending whenever the connection is free.
func (c *frameConn) flush() {
	c.tx.Lock()
	defer c.tx.Unlock()
	for {
		for c.tx.err == nil && !c.pendingLocked() && c.tx.stay && !c.tx.closed {
			c.tx.cond.Wait()
		}
		if c.tx.err != nil || !c.pendingLocked() {
			break
		}
		first, out := c.tx.first, c.tx.buf
		c.tx.first, c.tx.buf, c.tx.pongs = nil, nil, 0
		c.tx.urgent, c.tx.soon = append(c.tx.urgent, c.tx.soon...), nil
		c.tx.Unlock()
		err := c.send(first)
		if err == nil {
			err = c.send(out)
		}
		if cap(out) == flushBuffer {
			flushBuffers.Put((*[flushBuffer]byte)(out[:flushBuffer]))
		}
		c.tx.Lock()
		if err != nil && c.tx.err == nil {
			c.tx.err = err
			// yamux would find out with its next write, which may be never. What
			// has arrived is read first: it may say why.
			c.tx.broken = time.AfterFunc(byeWait, func() { _ = c.carrier.Close() })
		}
		c.tx.cond.Broadcast()
	}
	c.tx.running = false
	c.tx.cond.Broadcast()
}

// send gives p to inner TLS, whose records share carrier messages: that costs
// a fifth less CPU than a message for each.
func (c *frameConn) send(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	now := time.Now()
	if now.Sub(c.sentAt) > pauseAfter {
		c.sent = 0
	}
	c.sentAt = now
	for len(p) > 0 {
		n := min(len(p), maxBatch)
		if c.cork != nil {
			c.cork.Cork()
		}
		err := c.records(p[:n])
		if c.cork != nil {
			c.cork.Uncork()
		}
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

func (c *frameConn) records(p []byte) error {
	for len(p) > 0 {
		n := len(p)
		if c.sent < smallRecords {
			n = min(n, smallRecord)
			c.sent += n
		}
		if _, err := c.conn.Write(p[:n]); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// Close sends what was written, for at most drainOnClose, closes the
// connection and waits for the flusher.
func (c *frameConn) Close() error {
	bound := time.AfterFunc(drainOnClose, c.abort)
	c.tx.Lock()
	c.tx.closed = true
	c.tx.cond.Broadcast()
	for c.tx.running {
		c.tx.cond.Wait()
	}
	if c.tx.broken != nil {
		c.tx.broken.Stop()
	}
	c.tx.Unlock()
	defer bound.Stop() // TLS waits for what it is answering to the peer
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
