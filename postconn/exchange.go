package postconn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"time"

	"github.com/atls-ws/atls-ws/internal/answer"
	"github.com/atls-ws/atls-ws/internal/outer"
)

const (
	answerTimeout = 10 * time.Second // beyond what a request may be held
	retryTimeout  = 30 * time.Second // from a failure on, until an answer is good
	firstRetries  = 2                // of a request that no good answer came before
	minBackoff    = 100 * time.Millisecond
	maxBackoff    = 2 * time.Second
	maxRetryAfter = 10 * time.Second
	minHold       = time.Second
)

var (
	errProtocol = errors.New("the answer makes no sense")
	errNoLength = errors.New("the answer does not say how long it is")
)

// backoff counts what went wrong in a row.
type backoff struct{ failures, idle int }

func pause(n int) time.Duration {
	d := maxBackoff
	if n < 5 {
		d = min(minBackoff<<n, maxBackoff)
	}
	return d/2 + rand.N(d/2)
}

// exchangeLocked sends a request and takes its answer, or waits before the next
// try. It is called, and returns, with the lock held.
func (p *poster) exchangeLocked(r *posting, b *backoff) {
	if b.failures > 0 {
		r.wait = 0 // first learn whether anything answers
	}
	begin := time.Now()
	before := p.in.end() + p.out.base
	p.mu.Unlock()
	a, err := p.post(r)
	p.mu.Lock()
	var wait time.Duration
	switch {
	case p.stopped:
		return
	case err == nil:
		b.failures = 0
		p.failing = time.Time{}
		err := p.takeLocked(r, a)
		a.release()
		if err != nil {
			p.failLocked(&AnswerError{Op: op, StatusCode: http.StatusOK, Err: err})
			return
		}
		// Something on the way may have removed Prefer: do not ask in a hurry.
		if r.poll && r.wait > 0 && p.in.end()+p.out.base == before && time.Since(begin) < minHold {
			b.idle++
			wait = pause(b.idle - 1)
		} else {
			b.idle = 0
		}
	default:
		wait = p.failedLocked(r, err, b, time.Since(begin))
	}
	if wait > 0 && p.err == nil {
		p.mu.Unlock()
		select {
		case <-time.After(wait):
		case <-p.ctx.Done():
		}
		p.mu.Lock()
	}
}

// failedLocked says how long to wait before the next try, or ends the Conn.
func (p *poster) failedLocked(r *posting, err *AnswerError, b *backoff, after time.Duration) time.Duration {
	if len(r.body) > 0 {
		p.sent = max(min(p.sent, r.offset), p.out.base) // to be sent again
	}
	if p.closed && err.StatusCode == http.StatusNotFound && p.out.n == 0 {
		p.told = true // it had ended at the other end
		return 0
	}
	b.failures++
	if p.failing.IsZero() {
		p.failing = time.Now()
	}
	if !p.retryableLocked(err, b) || time.Since(p.failing) > retryTimeout {
		if err.StatusCode == http.StatusNotFound && p.locator != "" {
			err.Err = errors.New("the server does not know this session any more: it restarted, or another node answered")
		}
		p.failLocked(err)
		return 0
	}
	if r.poll && after > 2*minHold { // something cuts what is held for long
		p.hold = min(p.hold, (after / 2).Truncate(time.Second))
	}
	return max(pause(b.failures-1), min(err.RetryAfter, maxRetryAfter))
}

func (p *poster) retryableLocked(err *AnswerError, b *backoff) bool {
	switch s := err.StatusCode; {
	case errors.Is(err, errProtocol):
		return false
	case p.locator == "":
		// Who asks to come back later is heard by whoever dials again.
		return b.failures <= firstRetries && (s == 0 || s >= 500 && err.RetryAfter == 0)
	default:
		switch s {
		case 0, http.StatusOK, http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests,
			http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return true
		}
	}
	return false
}

// posted is a good answer. release gives its body's memory back.
type posted struct {
	head
	body    []byte
	release func()
	resp    *http.Response
	conn    net.Conn
}

// post sends one request. Its answer is one of ours.
func (p *poster) post(r *posting) (*posted, *AnswerError) {
	ctx, cancel := context.WithTimeoutCause(p.ctx, maxHold+answerTimeout, fmt.Errorf("no answer within %s", maxHold+answerTimeout))
	defer cancel()
	a := &posted{}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { a.conn = info.Conn },
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url.String(), bytes.NewReader(r.body))
	if err != nil {
		return nil, &AnswerError{Op: op, Err: err}
	}
	for k, v := range p.header {
		req.Header[k] = v
	}
	r.write(req.Header)
	if r.poll {
		req.Header.Set("Prefer", "wait="+strconv.Itoa(int(r.wait.Seconds())))
	}
	if r.locator != "" {
		req.Header.Set(sessionHeader, r.locator)
		req.Header["Cookie"] = append(req.Header["Cookie"][:len(req.Header["Cookie"]):len(req.Header["Cookie"])], cookieName+"="+r.locator)
		// The offsets make it so. The transport, to which this is said and to
		// nobody else, then repeats what met a connection that had been closed.
		req.Header["Idempotency-Key"] = nil
	}
	resp, err := p.transport.RoundTrip(req)
	if err != nil {
		return nil, postError(ctx, 0, err)
	}
	if e := a.read(ctx, resp); e != nil {
		return nil, e
	}
	return a, nil
}

// read takes an answer whose status and type are right, and its body.
func (a *posted) read(ctx context.Context, resp *http.Response) *AnswerError {
	a.resp = resp
	if resp.StatusCode != http.StatusOK || !isOurs(resp.Header) {
		return answer.Read(op, resp)
	}
	defer func() { _ = resp.Body.Close() }()
	m, err := parseHead(resp.Header)
	if err != nil {
		return postError(ctx, resp.StatusCode, fmt.Errorf("%w: %w", errProtocol, err))
	}
	a.head = *m
	if m.plain || len(resp.Header.Values(ackHeader)) == 0 {
		return postError(ctx, resp.StatusCode, fmt.Errorf("%w: no %s", errProtocol, offsetHeader))
	}
	if resp.ContentLength < 0 && len(resp.TransferEncoding) == 0 && resp.ProtoMajor == 1 {
		return postError(ctx, resp.StatusCode, errNoLength) // a cut would not be seen
	}
	a.body, a.release, err = readBody(resp.Body, resp.ContentLength, MaxBody)
	if errors.Is(err, errTooLarge) {
		err = fmt.Errorf("%w: over %d bytes", errProtocol, MaxBody)
	}
	if err != nil {
		return postError(ctx, resp.StatusCode, err)
	}
	return nil
}

// postError is an error below HTTP, or of an answer's body.
func postError(ctx context.Context, status int, err error) *AnswerError {
	var e *AnswerError
	if errors.As(err, &e) { // a proxy's
		return e
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	return &AnswerError{Op: op, StatusCode: status, Err: err}
}

// takeLocked takes what an answer says.
func (p *poster) takeLocked(r *posting, a *posted) error {
	if p.locator == "" {
		if a.locator == "" {
			return fmt.Errorf("%w: it names no session", errProtocol)
		}
		p.locator = a.locator
		p.outer = a.resp.TLS
		if a.conn != nil {
			tcp := outer.Lowest(a.conn)
			p.local, p.remote = tcp.LocalAddr(), tcp.RemoteAddr()
		}
	}
	if a.ack > p.out.end() && !p.inEnd {
		return fmt.Errorf("%w: it has more than was sent", errProtocol)
	}
	if !p.inEnd {
		p.ackedLocked(r, a.ack)
	}
	if r.fin && a.ack >= r.offset+uint64(len(r.body)) || p.closed && a.fin {
		p.told = true
	}
	if p.closed || p.inEnd {
		return nil
	}
	end := a.offset + uint64(len(a.body))
	have := p.in.end()
	switch {
	case len(a.body) == 0 && !a.fin, end < have:
		return nil
	case a.offset > have, end-have > uint64(maxWindow-p.in.n):
		return fmt.Errorf("%w: its bytes are not those that follow", errProtocol)
	}
	p.in.append(a.body[have-a.offset:])
	p.full = len(a.body) == MaxBody
	if a.fin {
		p.inEnd = true
		p.out.truncate() // nobody reads it
		p.sent = p.out.base
	}
	p.cond.Broadcast()
	return nil
}
