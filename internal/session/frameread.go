package session

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"sync"
	"time"
)

// frameReader is the reading direction of a frameConn. One goroutine reads:
// yamux's, or the one that polls while there is no yamux.
type frameReader struct {
	held [frameHead]byte // the beginning of a header
	n    int             // of held
	body uint32          // bytes that are left of a frame
	drop bool            // which is for a stream of a yamux that has gone
	rest []byte          // frames to hand to yamux before what comes from the peer
	err  error           // the peer broke the protocol, and nothing is read after that

	mu     sync.Mutex
	frames []byte // of ours for yamux on this end
}

// inject hands a frame of ours to yamux when the next one of the peer has arrived.
func (r *frameReader) inject(f []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.frames = append(r.frames, f...)
}

// forget drops what was injected for a yamux that has gone.
func (r *frameReader) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.frames = nil
}

// take returns what is to be read before the peer's bytes.
func (r *frameReader) take(p []byte) int {
	if len(r.rest) == 0 {
		if r.body > 0 {
			return 0
		}
		r.mu.Lock()
		r.rest, r.frames = r.frames, nil
		r.mu.Unlock()
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	if len(r.rest) == 0 {
		r.rest = nil
	}
	return n
}

// Read hands the peer's bytes to yamux, less the pings, and our frames between
// two of the peer's. p is yamux's buffer of 4 KiB, or the end of a large frame.
func (c *frameConn) Read(p []byte) (int, error) {
	for {
		if n := c.rx.take(p); n > 0 {
			return n, nil
		}
		n, err := c.receive(p)
		if n > 0 {
			return n, nil
		}
		if errors.Is(err, os.ErrDeadlineExceeded) { // see tryRest
			_ = c.carrier.SetReadDeadline(time.Time{})
			if c.mayPark(c.rx.body == 0 && c.rx.n == 0) {
				return 0, io.EOF // which yamux does not log
			}
			continue
		}
		if err != nil {
			return 0, err
		}
	}
}

// receive reads once from the peer and returns what yamux must see of it, which
// may be nothing.
func (c *frameConn) receive(p []byte) (int, error) {
	if c.rx.err != nil {
		return 0, c.rx.err
	}
	if len(p) <= frameHead {
		q := make([]byte, 4<<10)
		n, err := c.receive(q)
		c.rx.rest = append(c.rx.rest, q[:n]...)
		if n > 0 {
			err = nil // comes again
		}
		return 0, err
	}
	n := copy(p, c.rx.held[:c.rx.n])
	c.rx.n = 0
	m, err := c.conn.Read(p[n:])
	if m > 0 {
		c.lastRead.Store(time.Now().UnixNano())
	}
	n, c.rx.err = c.filter(p[:n+m])
	if c.rx.err != nil {
		err = c.rx.err
	}
	return n, err
}

// filter takes the pings out of p, and frames of streams that this end's yamux
// does not know any more. p begins where the last one ended; the beginning of a
// header is held back.
func (c *frameConn) filter(p []byte) (int, error) {
	r := &c.rx
	w := 0
	for pos := 0; pos < len(p); {
		if r.body > 0 {
			n := int(min(uint32(len(p)-pos), r.body))
			if !r.drop {
				if w != pos {
					copy(p[w:], p[pos:pos+n])
				}
				w += n
			}
			r.body -= uint32(n)
			pos += n
			continue
		}
		if len(p)-pos < frameHead {
			r.n = copy(r.held[:], p[pos:])
			break
		}
		head := p[pos : pos+frameHead]
		pos += frameHead
		flags, value := binary.BigEndian.Uint16(head[2:]), binary.BigEndian.Uint32(head[8:])
		if head[0] == 0 && head[1] == framePing {
			switch {
			case flags&flagSYN != 0:
				if err := c.pong(value); err != nil {
					return w, err
				}
			case flags&flagACK != 0:
				c.ponged.Store(value)
			}
			continue
		}
		switch {
		case head[1] == frameData:
			r.body = value
		case head[1] == frameGoAway && value == 0:
			c.away.Store(true)
		}
		known, err := c.inward(head)
		if err != nil {
			return w, err
		}
		if r.drop = !known; r.drop {
			continue
		}
		copy(p[w:], head)
		w += frameHead
	}
	return w, nil
}
