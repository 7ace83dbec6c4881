package client

import (
	"context"
	"time"
)

// pause waits before the next try. It ends early when the configuration is
// updated, when the machine wakes up, and when it gets an address; but not, for
// the last two, before soonest, which is when the server said. What ends it early
// lets the backoff begin anew, as the network may take a moment yet. An address
// does so once a minute, for some machines' come and go all the time.
func (c *Client) pause(ctx context.Context, d, soonest time.Duration, b *backoff, n *notice) error {
	// By the wall clock: what the server asked for is over after a night's sleep.
	allowed := n.wall().Round(0).Add(soonest)
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return nil
		case <-c.updated:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case e := <-n.events:
			switch {
			case e.slept > 0:
			case len(e.added) == 0 || !b.renew(time.Now()):
				continue
			}
			b.reset()
			wait := max(0, allowed.Sub(n.wall().Round(0)))
			c.config().Logger.Info(e.what()+": trying again", e.attrs("in", wait.Round(time.Second).String())...)
			if wait == 0 {
				return nil
			}
			timer.Reset(min(wait, d))
		}
	}
}

// Wait waits for d, or less when the machine wakes up or gets an address: early
// then says so. It is for who tries again by himself, as Run does; one who was told
// when to come back waits with a timer.
func Wait(ctx context.Context, d time.Duration) (early bool, err error) {
	return newNotice().wait(ctx, d)
}

func (n *notice) wait(ctx context.Context, d time.Duration) (early bool, err error) {
	looking, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	defer func() { stop(); <-done }()
	go func() { defer close(done); n.run(looking) }()
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return false, nil
		case <-ctx.Done():
			return false, ctx.Err()
		case e := <-n.events:
			if e.slept > 0 || len(e.added) > 0 {
				return true, nil
			}
		}
	}
}

// doubt asks the server for a sign of life after something was noticed while a
// session is up.
func (l *life) doubt(e event) {
	l.cfg.Logger.Info(e.what()+": asking the server for a sign of life", e.attrs("session", l.s.ID(), "within", probeWithin.String())...)
	l.s.Probe(probeWithin)
}

func (e *event) what() string {
	if e.slept > 0 {
		return "the machine slept, or its clock was set"
	}
	return "the network has changed"
}

func (e *event) attrs(more ...any) []any {
	if e.slept > 0 {
		more = append(more, "for", e.slept.Round(time.Second).String())
	}
	if len(e.added) > 0 {
		more = append(more, "addresses_new", e.added)
	}
	if len(e.removed) > 0 {
		more = append(more, "addresses_gone", e.removed)
	}
	return more
}
