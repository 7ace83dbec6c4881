package wsconn

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/atls-ws/atls-ws/internal/deadline"
)

// sender is the sending direction, and what the WebSocket library takes for
// its carrier. Write fills pending; the loop makes a message of it, for which
// the library calls sender's io.Writer, which fills out; and the loop gives out
// to the carrier in one call. So the library never blocks: a pong cannot run
// into its five seconds, after which it would close, because a message is on a
// slow line. Nothing but the loop writes to the carrier.
type sender struct {
	raw  io.ReadWriteCloser // the hijacked connection, or the body of the 101
	hard net.Conn
	head *bytes.Reader // what net/http read ahead
	ws   *websocket.Conn

	turn sync.Mutex // one write at a time

	mu       sync.Mutex
	cond     sync.Cond
	deadline deadline.Deadline
	pending  []byte      // written, at most MaxMessage
	out      []byte      // framed
	running  bool        // the loop, which lives as long as there is something to send
	corked   bool        // the loop is not started for what is pending
	framing  bool        // the loop is in ws.Write
	hangup   bool        // the library has closed us: send out, then close raw
	kill     *time.Timer // and close hard anyway
	ended    bool        // raw is closed or broken
	closed   bool        // no more writes
	err      error       // why no more messages can be made
}

func newSender(raw io.ReadWriteCloser, hard net.Conn, head []byte) *sender {
	s := &sender{raw: raw, hard: hard}
	if len(head) > 0 {
		s.head = bytes.NewReader(bytes.Clone(head))
	}
	s.cond.L = &s.mu
	return s
}

func (s *sender) attach(ws *websocket.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ws = ws
}

func (s *sender) write(p []byte) (n int, err error) {
	s.turn.Lock()
	defer s.turn.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.closed:
			return n, net.ErrClosed
		case s.err != nil:
			return n, s.err
		case s.deadline.ExpiredLocked():
			return n, os.ErrDeadlineExceeded
		}
		if k := min(MaxMessage-len(s.pending), len(p)); k > 0 {
			if s.pending == nil {
				s.pending = getBuffer()
			}
			s.pending = append(s.pending, p[:k]...)
			if !s.corked || len(s.pending) == MaxMessage {
				s.startLocked()
			}
			p, n = p[k:], n+k
		}
		if len(p) == 0 {
			return n, nil
		}
		s.cond.Wait()
	}
}

func (s *sender) startLocked() {
	if !s.running {
		s.running = true
		go s.loop()
	}
}

func (s *sender) cork() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.corked = true
}

// uncork sends in the caller's goroutine: waking another one for each message
// costs as much as a small message does.
func (s *sender) uncork() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.corked = false
	if !s.running && len(s.pending) > 0 {
		s.running = true
		s.loopLocked()
	}
}

// loop sends until nothing is left. It is alone: running guards it, and wait
// waits for it.
func (s *sender) loop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loopLocked()
}

func (s *sender) loopLocked() {
	for !s.ended {
		switch {
		case len(s.out) > 0:
			s.flushLocked()
		case len(s.pending) > 0 && s.err == nil:
			s.frameLocked()
		case s.hangup:
			s.ended = true
			s.mu.Unlock()
			_ = s.raw.Close() // TLS may have a close_notify to send; Conn bounds it
			s.mu.Lock()
		default:
			s.running = false
			s.cond.Broadcast()
			return
		}
	}
	if s.hangup {
		s.kill.Stop()
		_ = s.hard.Close()
	}
	s.out = nil
	s.running = false
	s.cond.Broadcast()
}

// frameLocked makes a message of what is pending, and room for more.
func (s *sender) frameLocked() {
	message := s.pending
	s.pending = nil
	s.framing = true
	s.cond.Broadcast()
	s.mu.Unlock()
	err := s.ws.Write(context.Background(), websocket.MessageBinary, message)
	putBuffer(message)
	s.mu.Lock()
	s.framing = false
	s.failLocked(err)
}

func (s *sender) flushLocked() {
	out := s.out
	s.out = nil
	s.mu.Unlock()
	_, err := s.raw.Write(out)
	putBuffer(out)
	s.mu.Lock()
	if err != nil {
		s.ended = true
		s.failLocked(fmt.Errorf("carrier: %w", err))
	}
}

// Write is the library's: a frame or a part of one.
func (s *sender) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.hangup {
		return 0, net.ErrClosed
	}
	if !s.framing && len(s.out)+len(p) > bufferSize {
		return len(p), nil // a peer that pings and does not read gets no more pongs
	}
	if s.out == nil {
		s.out = getBuffer()
	}
	s.out = append(s.out, p...)
	if !s.framing {
		s.startLocked()
	}
	return len(p), nil
}

// Read is the library's.
func (s *sender) Read(p []byte) (int, error) {
	if s.head != nil {
		if n, err := s.head.Read(p); err == nil {
			return n, nil
		}
		s.head = nil
	}
	return s.raw.Read(p)
}

// Close is the library's. It does not wait, but raw is closed soon.
func (s *sender) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hangup {
		return nil
	}
	s.hangup = true
	if s.ended {
		return s.hard.Close()
	}
	s.kill = time.AfterFunc(lingerTimeout, func() { _ = s.hard.Close() })
	s.startLocked()
	return nil
}

// drain refuses further writes and waits until the earlier ones are sent.
func (s *sender) drain() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	failed := s.err != nil
	s.closed = true
	s.deadline.StopLocked()
	s.cond.Broadcast()
	s.waitLocked()
	if s.err != nil && !failed {
		return fmt.Errorf("close: not all was sent: %w", s.err)
	}
	return nil
}

func (s *sender) wait() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waitLocked()
}

func (s *sender) waitLocked() {
	for s.running {
		s.cond.Wait()
	}
}

// fail ends the direction; frames that are made are still sent.
func (s *sender) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failLocked(err)
}

func (s *sender) failLocked(err error) {
	if err == nil || s.err != nil {
		return
	}
	s.err = err
	if s.pending != nil {
		putBuffer(s.pending)
		s.pending = nil
	}
	s.cond.Broadcast()
}

func (s *sender) setDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.deadline.SetLocked(t, &s.cond)
	return nil
}
