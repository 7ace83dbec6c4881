package wsconn

import (
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/atls-ws/atls-ws/internal/deadline"
)

const (
	// A TLS connection keeps a buffer as large as the largest record that it has
	// received, for as long as it lives. So what is sent after a pause goes out in
	// small records; only a longer transfer gets large ones, which cost less CPU.
	smallWrite  = 4 << 10
	smallWrites = 1 << 20 // bytes that are sent so
	pauseAfter  = 5 * time.Second
)

// sender is the sending direction. Write fills pending, which becomes a message
// in place and one write to the carrier. Nothing but the loop writes to the
// carrier, and the reading direction never waits for it: what it has to send is
// kept in pong and goodbye.
type sender struct {
	raw    io.ReadWriteCloser // the hijacked connection, or the body of the 101
	hard   net.Conn           // the lowest connection we can reach: closing it ends everything at once
	batch  batch              // hard, if it is one
	client bool
	paced  bool // the carrier is TLS

	turn sync.Mutex // one write at a time

	mu       sync.Mutex
	cond     sync.Cond
	deadline deadline.Deadline
	pending  []byte      // from maxHead on what is written, at most MaxMessage
	pong     []byte      // to be sent: the answer to the latest ping
	goodbye  []byte      // to be sent after pending: a close frame
	said     bool        // a close frame was made, so no further one is
	running  bool        // the loop, which lives as long as there is something to send
	corked   bool        // the loop is not started for what is pending
	hangup   bool        // send what there is, then close raw
	kill     *time.Timer // and close hard anyway
	ended    bool        // raw is closed or broken
	closed   bool        // no more writes
	err      error       // why no more messages can be made
	lost     bool        // something that Write took was not sent

	last time.Time // of the loop: when it sent
	sent int       // of the loop: bytes since a pause
}

func newSender(raw io.ReadWriteCloser, hard net.Conn, client, paced bool) *sender {
	s := &sender{raw: raw, hard: hard, client: client, paced: paced}
	s.batch, _ = hard.(batch)
	s.cond.L = &s.mu
	return s
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
		if s.pending == nil && len(p) > 0 {
			s.pending = getBuffer()[:maxHead]
		}
		if k := min(cap(s.pending)-len(s.pending), len(p)); k > 0 {
			s.pending = append(s.pending, p[:k]...)
			if !s.corked || len(s.pending) == bufferSize {
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

func (s *sender) cork() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.corked = true
}

// uncork sends in the caller's goroutine: waking another one for each message
// costs as much as a small message does. What has come up meanwhile is not the
// caller's: a peer that pings without pause would keep it here.
func (s *sender) uncork() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.corked = false
	if s.running || s.pending == nil {
		return
	}
	s.running = true
	s.messageLocked()
	if !s.ended && (s.pending != nil || s.pong != nil || s.goodbye != nil || s.hangup) {
		go s.loop()
		return
	}
	s.restLocked()
}

func (s *sender) startLocked() {
	if !s.running && !s.ended {
		s.running = true
		go s.loop()
	}
}

// loop sends until nothing is left. It is alone: running guards it, and wait
// waits for it.
func (s *sender) loop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.ended {
		switch {
		case s.pong != nil:
			p := s.pong
			s.pong = nil
			s.sendLocked(opPong, p)
			if s.pending != nil && !s.ended { // the next ping may have come
				s.messageLocked()
			}
		case s.pending != nil:
			s.messageLocked()
		case s.goodbye != nil:
			p := s.goodbye
			s.goodbye = nil
			s.sendLocked(opClose, p)
		case s.hangup:
			s.ended = true
			s.mu.Unlock()
			_ = s.raw.Close() // TLS may have a close_notify to send; Conn bounds it
			s.mu.Lock()
		default:
			s.restLocked()
			return
		}
	}
	s.restLocked()
}

// restLocked ends the loop, and the carrier if it is to be.
func (s *sender) restLocked() {
	if s.ended && s.hangup {
		s.kill.Stop() // it is there: hangup came before ended
		_ = s.hard.Close()
	}
	s.running = false
	s.cond.Broadcast()
}

// messageLocked sends what is pending.
func (s *sender) messageLocked() {
	p := s.pending
	s.pending = nil
	s.cond.Broadcast()
	s.sendLocked(opBinary, p)
	s.lost = s.lost || s.ended
	putBuffer(p)
}

// sendLocked sends a frame, whose payload begins at p[maxHead].
func (s *sender) sendLocked(opcode byte, p []byte) {
	s.mu.Unlock()
	err := s.put(sealFrame(p, opcode, s.client))
	s.mu.Lock()
	if err != nil {
		s.ended = true
		s.failLocked(fmt.Errorf("carrier: %w", err))
	}
}

// batch is a connection below TLS that gathers records.
type batch interface {
	Cork()
	Uncork() error
}

// put gives a frame to the carrier.
func (s *sender) put(p []byte) error {
	if s.batch == nil || len(p) < smallWrite {
		return s.records(p)
	}
	s.batch.Cork()
	err := s.records(p)
	if uerr := s.batch.Uncork(); err == nil {
		err = uerr
	}
	return err
}

// records writes a frame, small to begin with.
func (s *sender) records(p []byte) error {
	if s.paced && len(p) > smallWrite {
		now := time.Now()
		if now.Sub(s.last) > pauseAfter {
			s.sent = 0
		}
		s.last = now
		for s.sent < smallWrites && len(p) > smallWrite {
			if _, err := s.raw.Write(p[:smallWrite]); err != nil {
				return err
			}
			s.sent += smallWrite
			p = p[smallWrite:]
		}
	}
	_, err := s.raw.Write(p)
	return err
}

// answer sends a pong. Only the latest ping needs one (RFC 6455 section 5.5.3),
// so that who pings and does not read gets no more.
func (s *sender) answer(ping []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.said {
		return
	}
	s.pong = append(make([]byte, maxHead), ping...)
	s.startLocked()
}

// bid sends a close frame, once, behind what is pending.
func (s *sender) bid(status uint16, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.said || s.ended {
		return
	}
	s.said = true
	s.goodbye = append(make([]byte, maxHead), closePayload(status, reason)...)
	if status == statusNone {
		s.goodbye = s.goodbye[:maxHead]
	}
	s.startLocked()
}

// hangUp closes raw soon, after what is to be sent. It does not wait.
func (s *sender) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hangup {
		return
	}
	s.hangup = true
	if s.ended {
		_ = s.hard.Close()
		return
	}
	s.kill = time.AfterFunc(lingerTimeout, func() { _ = s.hard.Close() })
	s.startLocked()
}

// drain refuses further writes and waits until the earlier ones are sent.
func (s *sender) drain() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed, s.corked = true, false
	s.deadline.StopLocked()
	s.cond.Broadcast()
	if s.pending != nil {
		s.startLocked()
	}
	s.waitLocked()
	if s.lost {
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
		s.pending, s.lost = nil, true
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
