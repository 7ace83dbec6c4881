package client

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"time"
)

// Run dials, serves, and after the session's end backs off and dials again,
// until ctx ends. It then closes the session and returns ctx's error; nothing
// of the client still runs. Only one Run at a time.
//
// A pause ends early when the machine wakes up or gets another address, and a
// session that is up is then asked for a sign of life at once.
//
// With CarrierAuto a network in which POST was what worked is remembered for an
// hour at most; WebSocket is tried again meanwhile, and the session moves to it. So
// it does to a certificate that Update brings.
func (c *Client) Run(ctx context.Context) error {
	n := c.notice
	var looking sync.WaitGroup
	defer looking.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if !c.config().Stationary {
		looking.Go(func() { n.run(ctx) })
	}
	var b backoff
	for {
		select {
		case <-c.updated: // the configuration that is taken next has it
		default:
		}
		started, cfg := time.Now(), c.config()
		lived, retry, err := c.once(ctx, cfg)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Since(started) >= healthyAfter || n.lately() && b.renew(time.Now()) {
			b.reset()
		}
		soonest := retry // what a draining server asked for
		if retry < 0 {
			retry = b.next(err)
			soonest = min(retryAfter(err), maxRetryWait)
		}
		said := "no session"
		if lived {
			said = "session ended"
		}
		cfg.Logger.Warn(said, "err", err, "retry_in", retry.Round(time.Millisecond).String())
		if cfg.OnDisconnect != nil {
			cfg.OnDisconnect(err, retry)
		}
		if err := c.pause(ctx, retry, soonest, &b, n); err != nil {
			return err
		}
	}
}

// once makes a session and lives with it until its end; lived says that there
// was one. A retry of 0 or more is what a draining server asked for.
func (c *Client) once(ctx context.Context, cfg *Config) (lived bool, retry time.Duration, err error) {
	l := &life{c: c, cfg: cfg, attempt: rand.Text(), network: network(ctx, cfg), moves: make(chan move)}
	first := c.paths.first(l.network)
	s, err := connect(ctx, cfg, first, l.attempt)
	if err != nil {
		return false, -1, err
	}
	defer l.wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l.use(s)
	defer func() { c.set(nil); _ = l.s.Close() }()

	if l.carrier() == CarrierPOST && cfg.Carrier == CarrierAuto {
		if first == CarrierWebSocket {
			c.paths.gaveUp(l.network)
		}
		l.wg.Go(func() { l.tryWebSocket(ctx) })
	}
	for {
		select {
		case m := <-l.moves:
			old := l.s
			cfg.Logger.Info("session moves", "to", m.to, "old", old.ID())
			l.cfg = m.cfg
			l.use(m.s)
			l.wg.Go(func() { retire(ctx, old) })
		case <-c.updated:
			l.renew(ctx)
		case <-l.s.Done():
			l.learn()
			return true, -1, l.s.Err()
		case <-ctx.Done():
			return true, -1, ctx.Err()
		case e := <-c.notice.events:
			l.doubt(e)
		case <-l.s.Drained():
			retry, err := l.drained(ctx)
			return true, retry, err
		}
	}
}

// life is what once lives through: a session, and perhaps others after it, to
// which it moves without a gap.
type life struct {
	c       *Client
	cfg     *Config // of s
	attempt string  // the same for all: to the server they are one connection
	network string
	s       *Session
	moves   chan move
	renewal context.CancelFunc // of what tries to move to a new certificate; nil: nothing
	wg      sync.WaitGroup
}

func (l *life) carrier() Carrier { return Carrier(l.s.Hello().Carrier) }

func (l *life) use(s *Session) {
	l.s = s
	l.cfg.Logger.Info("session ready", "device", s.Device(), "session", s.ID(), "carrier", s.Hello().Carrier, "remote", s.RemoteAddr().String())
	if l.cfg.OnConnect != nil {
		l.cfg.OnConnect(s)
	}
	l.c.set(s)
}

// learn draws a conclusion from the end of a session over a WebSocket: a box may
// cut those short, or let nothing through any more.
func (l *life) learn() {
	if l.carrier() != CarrierWebSocket {
		return
	}
	refused := (*RefusedError)(nil)
	switch err := l.s.Err(); {
	case errors.As(err, &refused): // the server's word came through
	case l.c.notice.lately(): // no box's doing
	case errors.Is(err, ErrDead), errors.Is(err, ErrPeerGone) && !errors.Is(err, ErrReplaced) && time.Since(l.s.Opened()) < healthyAfter:
		l.c.paths.gaveUp(l.network)
	case time.Since(l.s.Opened()) >= healthyAfter:
		l.c.paths.works(l.network)
	}
}

// drained is about a server that goes: it keeps the session while streams end,
// we come back when it said. Whatever is first moves us.
func (l *life) drained(ctx context.Context) (retry time.Duration, err error) {
	retry = min(l.s.ReconnectIn(), maxRetryWait)
	l.cfg.Logger.Info("server drains", "reconnect_in", retry.String())
	timer := time.NewTimer(retry)
	defer timer.Stop()
	select {
	case <-l.s.Done():
		return retry, ErrDraining
	case <-timer.C:
		return 0, ErrDraining
	case <-ctx.Done():
		return -1, ctx.Err()
	}
}
