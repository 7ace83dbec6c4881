package postconn

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// maxRide is the size of the bytes that go with a request which is held: a
// request beside it, which cannot know that they arrived, repeats them.
const maxRide = 16 << 10

// poster is a Conn at the client. Two goroutines send its requests, one at a
// time each, while there is something to ask for: poll asks for bytes and is
// held by the server; send carries bytes and is not. Before the first answer,
// which names the session, only one of them runs. Bytes that were written ride
// on a poll when one is about to go, so that a client that answers and waits
// needs one request.
type poster struct {
	Conn
	url       *url.URL
	header    http.Header
	transport http.RoundTripper
	release   func() // of the transport
	ctx       context.Context
	cancel    context.CancelFunc
	wg        sync.WaitGroup // poll and send

	// Guarded by the Conn's lock.
	locator string // of the session; empty before the first good answer
	polling bool   // poll runs
	asking  bool   // and has taken what rides with its request
	sending bool   // send runs
	flush   *time.Timer
	due     bool // send although nobody reads
	full    bool // the last answer was: there is more
	hold    time.Duration
	failing time.Time // of the first failure since the last good answer
	stopped bool      // no more goroutines
	told    bool      // the other end knows that we have closed
}

func newPoster(u *url.URL, h http.Header, t http.RoundTripper, release func()) *poster {
	p := &poster{url: u, header: h.Clone(), transport: t, release: release, hold: maxHold}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.init(p)
	p.local, p.remote = addr("post"), addr(u.Host)
	return p
}

func (p *poster) established() {}

// changedLocked starts what there is a reason for.
func (p *poster) changedLocked() {
	if p.stopped {
		return
	}
	if !p.polling && p.wantPollLocked() {
		p.polling = true
		p.wg.Go(func() { p.loop(&p.polling, p.wantPollLocked, p.pollLocked) })
	}
	if !p.sending && p.wantSendLocked() {
		p.sending = true
		p.wg.Go(func() { p.loop(&p.sending, p.wantSendLocked, p.sendLocked) })
	}
	if !p.sending && p.flush == nil && !p.due && p.out.end() > p.sent {
		p.flush = time.AfterFunc(flushDelay, p.flushNow)
	}
}

func (p *poster) flushNow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flush = nil
	p.due = p.out.end() > p.sent
	p.changedLocked()
}

// loop runs until it is not wanted. running guards it.
func (p *poster) loop(running *bool, wanted func() bool, next func() *posting) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var b backoff
	for !p.stopped && wanted() {
		r := next()
		p.asking = p.asking || r.poll
		p.changedLocked() // what does not ride goes beside
		p.exchangeLocked(r, &b)
		p.asking = p.asking && !r.poll
	}
	*running = false
	p.changedLocked()
	p.cond.Broadcast()
}

// wantPollLocked: the consumer wants to read, and an answer of any size has room.
func (p *poster) wantPollLocked() bool {
	return p.err == nil && !p.closed && !p.inEnd && (p.blockedLocked() || p.full) &&
		p.in.n <= maxWindow-MaxBody && (p.locator != "" || !p.sending)
}

// wantSendLocked: there are bytes that no request carries, and a reason not to
// wait for more; or the end is to be told.
func (p *poster) wantSendLocked() bool {
	unsent := p.out.end() - p.sent
	switch {
	case p.err != nil, p.locator == "" && p.polling, p.polling && !p.asking:
		return false
	case p.closed:
		return !p.told && (p.locator != "" || unsent > 0)
	case p.inEnd:
		return false
	}
	return unsent > 0 && (p.blockedLocked() || p.due || unsent >= MaxBody)
}

// posting is a request.
type posting struct {
	head
	body []byte
}

func (p *poster) pollLocked() *posting {
	r := p.nextLocked()
	r.poll, r.wait = true, p.hold
	p.full = false
	if !p.sending {
		p.carryLocked(r, maxRide)
	}
	return r
}

func (p *poster) sendLocked() *posting {
	r := p.nextLocked()
	if p.locator == "" {
		p.carryLocked(r, MaxFirstBody)
	} else {
		p.carryLocked(r, MaxBody)
	}
	r.fin = p.closed && p.sent == p.out.end()
	return r
}

func (p *poster) nextLocked() *posting {
	return &posting{head: head{locator: p.locator, offset: p.out.base, ack: p.in.end()}}
}

// carryLocked gives a request the bytes from the first on that is not
// acknowledged: the server drops those that it has.
func (p *poster) carryLocked(r *posting, limit int) {
	r.body = make([]byte, min(p.out.n, limit))
	p.out.copyAt(r.body, p.out.base)
	p.sent = max(p.sent, p.out.base+uint64(len(r.body)))
	if p.sent == p.out.end() {
		p.due = false
		if p.flush != nil {
			p.flush.Stop()
			p.flush = nil
		}
	}
}

// ackedLocked is what an answer says about the bytes of its request.
func (p *poster) ackedLocked(r *posting, ack uint64) {
	if ack > p.out.base {
		p.out.discard(ack)
		p.cond.Broadcast() // there is room to write
	}
	if end := r.offset + uint64(len(r.body)); ack < end {
		p.sent = min(p.sent, ack) // the server had no room
	}
	p.sent = max(p.sent, p.out.base)
}

// close tells the other end what is left and that it is all.
func (p *poster) close() error {
	p.mu.Lock()
	failed := p.err != nil
	p.closeLocked()
	expired := false
	bound := time.AfterFunc(closeTimeout, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		expired = true
		p.cond.Broadcast()
	})
	p.changedLocked()
	for !expired && !p.told && p.err == nil && (p.sending || p.polling || p.wantSendLocked()) {
		p.cond.Wait()
	}
	var err error
	if !failed && !p.told && !p.inEnd && (p.err != nil || p.out.n > 0 || p.locator != "") {
		err = p.err
		if err == nil {
			err = fmt.Errorf("no answer within %s", closeTimeout)
		}
		err = fmt.Errorf("close: not all was sent: %w", err)
	}
	p.stopped = true
	if p.flush != nil {
		p.flush.Stop()
	}
	p.failLocked(net.ErrClosed)
	p.mu.Unlock()
	bound.Stop()
	p.cancel()
	p.wg.Wait()
	p.release()
	return err
}
