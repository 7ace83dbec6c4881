package postconn

import (
	"context"
	"net/http"
	"strconv"
	"time"
)

// served is a Conn at the server. All its fields are guarded by the Conn's lock.
// Nothing runs for it but the requests that are there and one timer.
type served struct {
	Conn
	h       *Handler
	locator string
	plain   bool // a client without offsets

	created   time.Time
	ready     bool      // Established was called
	requests  int       // here now
	last      time.Time // when the last of them went
	closedAt  time.Time
	timer     *time.Timer
	gone      bool   // forgotten by the handler
	grave     *head  // if so, what answers requests that came late
	polls     uint64 // requests that wanted bytes; only the newest is held
	plainBusy bool
}

// request is one that has arrived whole.
type request struct {
	head
	first   bool // it made the connection
	body    []byte
	release func()
}

// done gives the body's memory back, as soon as the body is taken.
func (q *request) done() {
	if q.release != nil {
		q.release()
		q.release, q.body = nil, nil
	}
}

func newServed(h *Handler, locator string, plain bool) *served {
	s := &served{h: h, locator: locator, plain: plain, created: time.Now()}
	s.init(s)
	s.timer = time.AfterFunc(readyTimeout, s.expire)
	return s
}

func (s *served) changedLocked() {}

// serve answers a request, or returns what refuses it.
func (s *served) serve(w http.ResponseWriter, r *http.Request, q *request) *refusal {
	s.mu.Lock()
	s.requests++
	s.armLocked()
	stop := context.AfterFunc(r.Context(), s.wake)
	m, e := s.answerLocked(r.Context(), q)
	var body []byte
	if e == nil && m.size > 0 {
		buf := bodies.Get().(*[MaxBody + 1]byte)
		defer bodies.Put(buf)
		body = buf[:s.out.copyAt(buf[:m.size], m.offset)]
	}
	if s.gone {
		s.out.truncate()
	}
	s.mu.Unlock()
	stop()
	if e == nil {
		writeAnswer(w, &m.head, body)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests--
	s.last = time.Now()
	s.armLocked()
	s.cond.Broadcast()
	return e
}

// answered is the answer to a request: size bytes of out from the offset on.
type answered struct {
	head
	size int
}

func (s *served) answerLocked(ctx context.Context, q *request) (*answered, *refusal) {
	if s.gone {
		return s.lateLocked()
	}
	if q.plain != s.plain {
		return nil, refuse(http.StatusBadRequest, offsetHeader+" is on some requests only")
	}
	if s.plain {
		if s.plainBusy {
			return nil, refuse(http.StatusConflict, "a request without "+offsetHeader+" is being answered")
		}
		s.plainBusy = true
		defer func() { s.plainBusy = false }()
		q.offset, q.ack = s.in.end(), s.sent
	}
	end := q.offset + uint64(len(q.body))
	switch {
	case q.ack > s.sent:
		return nil, refuse(http.StatusBadRequest, ackHeader+" is beyond what was sent")
	case q.offset > s.in.end():
		ack := s.in.end()
		return nil, &refusal{status: http.StatusConflict, title: "bytes before " + offsetHeader + " are missing", ack: &ack}
	case q.ack > s.out.base:
		s.out.discard(q.ack)
		s.cond.Broadcast() // there is room to write
	}
	begin := time.Now()
	if e := s.takeLocked(ctx, q, begin); e != nil {
		return nil, e
	}
	q.done()
	switch {
	case s.gone:
		return s.lateLocked()
	case q.fin && s.in.end() >= end:
		s.finishLocked()
		return s.lateLocked()
	case q.poll || s.plain:
		return s.pollLocked(ctx, q, begin)
	}
	return s.replyLocked(s.out.base, 0), nil
}

// lateLocked answers on behalf of a connection that has ended.
func (s *served) lateLocked() (*answered, *refusal) {
	if s.grave == nil {
		return nil, unknown()
	}
	return &answered{head: *s.grave}, nil
}

// takeLocked moves the body, less what is there already, to the reader. It
// waits for room; what finds none is sent again by a client with offsets.
func (s *served) takeLocked(ctx context.Context, q *request, begin time.Time) *refusal {
	hold := maxHold
	if q.poll && !s.plain { // what does not ask for bytes still waits for room
		hold = q.wait
	}
	end := q.offset + uint64(len(q.body))
	var timer *time.Timer
	for !s.gone && s.in.end() < end {
		rest := q.body[s.in.end()-q.offset:]
		room := min(MaxBody-s.in.n, len(rest))
		if s.plain && room < len(rest) {
			room = 0 // all or nothing
		}
		left := time.Until(begin.Add(hold))
		switch {
		case s.closed: // nobody reads them
			s.in.base += uint64(len(rest))
		case room > 0:
			s.in.append(rest[:room])
			s.cond.Broadcast()
		case left <= 0 || ctx.Err() != nil:
			if s.plain {
				return &refusal{status: http.StatusServiceUnavailable, title: "no room for the body, and none of it is taken", retry: time.Second}
			}
			return nil
		default:
			if timer == nil {
				timer = time.AfterFunc(left, s.wake)
				defer timer.Stop()
			}
			s.cond.Wait()
		}
	}
	return nil
}

// pollLocked answers a request that wants bytes when there is a reason to.
func (s *served) pollLocked(ctx context.Context, q *request, begin time.Time) (*answered, *refusal) {
	if q.ack < s.out.base { // a replay: the client has gone on
		return s.replyLocked(s.out.base, 0), nil
	}
	s.polls++
	mine := s.polls
	s.cond.Broadcast()
	hold := q.wait
	if !q.poll || q.first { // the first is what makes the session known to the client
		hold = time.Second
	}
	until := begin.Add(hold)
	timer := time.AfterFunc(hold, s.wake)
	defer timer.Stop()
	for !s.gone && s.polls == mine && ctx.Err() == nil {
		next := s.dueLocked(q, until)
		left := time.Until(next)
		if left <= 0 {
			break
		}
		timer.Reset(left)
		s.cond.Wait()
	}
	switch {
	case s.gone:
		return s.lateLocked()
	case q.ack < s.out.base: // acknowledged by a request beside this one
		return s.replyLocked(s.out.base, 0), nil
	case s.polls != mine, ctx.Err() != nil:
		return s.replyLocked(q.ack, 0), nil
	}
	a := s.replyLocked(q.ack, min(int(s.out.end()-q.ack), MaxBody))
	if s.plain && a.fin { // it does not say that it has this
		s.finishLocked()
	}
	return a, nil
}

// dueLocked is when a request that wants bytes is answered as things are; the
// zero time is now.
func (s *served) dueLocked(q *request, until time.Time) time.Time {
	n := s.out.end() - min(q.ack, s.out.end())
	switch {
	case s.closed, n >= MaxBody, q.ack < s.out.base:
		return time.Time{}
	case s.blockedLocked() && (n > 0 || q.first && !s.plain):
		// All that it had to say until it wanted to read: a flight. An empty one
		// says that the first request was not enough to go on.
		return time.Time{}
	case n == 0:
		return until
	}
	// It writes and does not read. A handshake may be waiting for a decision
	// between two records of a flight.
	delay := time.Second
	if s.ready && !s.plain {
		delay = flushDelay
	}
	if due := s.written.Add(delay); due.Before(until) {
		return due
	}
	return until
}

func (s *served) replyLocked(offset uint64, size int) *answered {
	end := offset + uint64(size)
	s.sent = max(s.sent, end)
	return &answered{
		head: head{offset: offset, ack: s.in.end(), fin: s.closed && end == s.out.end()},
		size: size,
	}
}

// writeAnswer answers 200.
func writeAnswer(w http.ResponseWriter, m *head, body []byte) {
	m.write(w.Header())
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	// The answer goes out while the deadline holds; the server's own, if it has
	// one, is set again with the next request.
	ctl := http.NewResponseController(w)
	_ = ctl.SetWriteDeadline(time.Now().Add(bodyTimeout))
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(body)
	_ = ctl.Flush()
	_ = ctl.SetWriteDeadline(time.Time{})
}
