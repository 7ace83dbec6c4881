package admin

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/atls-ws/atls-ws/internal/session"
)

// A stream of FramesProtocol is bytes in frames, because the bytes of a socket
// alone do not say whether their end is one or a cut, nor whether the peer lives:
//
//	type u8 | length u16, big endian | data
//
//	0 data
//	1 end: of this direction; no data comes after it. No length
//	2 ping: each end sends one every keepalive or so, before and after its end. No length
//
// A connection that ends without an end is broken. So is one on which nothing
// has come for three keepalives.
const (
	frameData = iota
	frameEnd
	framePing

	frameHeader = 3
	maxFrame    = 64 << 10        // with its header
	endWait     = 2 * time.Second // for the end of a stream that is closed to be sent
)

var (
	errCut    = errors.New("it was cut off")
	errFrames = errors.New("it carries what is no frame")
	frameBufs = sync.Pool{New: func() any { return new([maxFrame]byte) }}
)

// Frames is a connection with half-close whose end is known from a cut, and which
// breaks when the peer is dead. Close is an end for the peer, Reset a failure.
type Frames struct {
	net.Conn
	r         *bufio.Reader
	keepalive time.Duration

	rx    sync.Mutex // one reader at a time
	left  int        // of the data of a frame
	ended bool

	tx      sync.Mutex // one writer at a time
	endSent bool
	txErr   error // of a write: what came of its frame is not known

	mu      sync.Mutex
	wg      sync.WaitGroup
	timer   *time.Timer // calls beat
	waiting bool        // for the peer
	heard   time.Time   // of it; since it is waited for, at the earliest
	closed  bool
	dead    error
}

// NewFrames makes the connection of one whose bytes begin in r. The caller closes it.
func NewFrames(conn net.Conn, r *bufio.Reader, keepalive time.Duration) *Frames {
	f := &Frames{Conn: conn, r: r, keepalive: keepalive}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.timer = time.AfterFunc(session.BeatIn(f.keepalive), f.beat)
	return f
}

// beat pings, and gives up on a peer that is waited for in vain. Who does not
// read, because what was read before has not been taken, does not wait.
func (f *Frames) beat() {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return
	}
	next := session.BeatIn(f.keepalive)
	if f.waiting {
		silent := time.Since(f.heard)
		if silent >= session.MissedPings*f.keepalive {
			f.dead = fmt.Errorf("nothing was heard for %s", silent.Round(time.Second))
			f.mu.Unlock()
			f.cut()
			return
		}
		next = min(next, session.MissedPings*f.keepalive-silent)
	}
	f.timer.Reset(next)
	f.wg.Add(1)
	defer f.wg.Done()
	f.mu.Unlock()
	if f.tx.TryLock() { // else what is being written is sign enough
		defer f.tx.Unlock()
		_ = f.sendLocked([]byte{framePing, 0, 0}) // an error shows in a read
	}
}

func (f *Frames) sendLocked(frame []byte) error {
	if f.txErr == nil {
		_, f.txErr = f.Conn.Write(frame)
	}
	return f.broken(f.txErr)
}

func (f *Frames) wait(waiting bool) {
	f.mu.Lock()
	f.waiting, f.heard = waiting, time.Now()
	f.mu.Unlock()
}

func (f *Frames) Read(p []byte) (n int, err error) {
	f.rx.Lock()
	defer f.rx.Unlock()
	if f.ended {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	f.wait(true)
	if err = f.next(); err == nil && !f.ended {
		n, err = f.r.Read(p[:min(len(p), f.left)])
		f.left -= n
	}
	f.wait(false)
	if f.ended {
		f.watch()
		return 0, io.EOF
	}
	return n, f.broken(err)
}

// next reads up to data or the end.
func (f *Frames) next() error {
	for f.left == 0 && !f.ended {
		h, err := f.r.Peek(frameHeader)
		if err != nil {
			return err
		}
		f.wait(true)
		kind, n := h[0], int(binary.BigEndian.Uint16(h[1:]))
		_, _ = f.r.Discard(frameHeader) // it is there
		switch {
		case kind == frameData && n > 0 && n <= maxFrame-frameHeader:
			f.left = n
		case kind == frameEnd && n == 0:
			f.ended = true
		case kind != framePing || n != 0:
			return errFrames
		}
	}
	return nil
}

// watch waits on for pings when nothing else is to come: a peer to which is only
// written may be dead too.
func (f *Frames) watch() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return
	}
	f.waiting = true
	f.wg.Go(func() {
		for {
			h, err := f.r.Peek(frameHeader)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				f.wait(false) // the owner has bounds of its own
				return
			}
			if err != nil || h[0] != framePing {
				f.cut()
				return
			}
			_, _ = f.r.Discard(frameHeader)
			f.wait(true)
		}
	})
}

// broken is the error of a read or a write: a connection that is cut has no end.
func (f *Frames) broken(err error) error {
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.dead != nil:
		return f.dead
	case f.closed:
		return net.ErrClosed
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errCut
	}
	return err
}

func (f *Frames) Write(p []byte) (n int, err error) {
	f.tx.Lock()
	defer f.tx.Unlock()
	if f.endSent {
		return 0, net.ErrClosed
	}
	buf := frameBufs.Get().(*[maxFrame]byte)
	defer frameBufs.Put(buf)
	for n < len(p) {
		m := copy(buf[frameHeader:], p[n:])
		buf[0] = frameData
		binary.BigEndian.PutUint16(buf[1:], uint16(m)) //nolint:gosec // less than maxFrame
		if err := f.sendLocked(buf[:frameHeader+m]); err != nil {
			return n, err
		}
		n += m
	}
	return n, nil
}

// CloseWrite ends what this end sends; reads go on.
func (f *Frames) CloseWrite() error {
	f.tx.Lock()
	defer f.tx.Unlock()
	if f.endSent {
		return nil
	}
	f.endSent = true
	return f.sendLocked([]byte{frameEnd, 0, 0})
}

// Close ends the connection, in an orderly way for the peer unless it is broken.
// It waits for two seconds at most for what was written to be taken.
func (f *Frames) Close() error {
	if f.shut() {
		_ = f.SetWriteDeadline(time.Now().Add(endWait))
		_ = f.CloseWrite()
	}
	err := f.Conn.Close()
	f.wg.Wait()
	return err
}

// Reset ends the connection as a failure: the peer's reads give an error.
func (f *Frames) Reset() {
	f.shut()
	f.cut()
}

// shut is true once.
func (f *Frames) shut() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.closed = true
	f.timer.Stop()
	return f.dead == nil
}

// cut ends the connection at once; TLS would say goodbye, and wait for it.
func (f *Frames) cut() {
	if t, ok := f.Conn.(*tls.Conn); ok {
		_ = t.NetConn().Close()
		return
	}
	_ = f.Conn.Close()
}
