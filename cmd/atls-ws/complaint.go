package main

import (
	"errors"
	"log/slog"
	"time"

	"github.com/atls-ws/atls-ws/client"
)

// complainEvery is how often a reason that stays the same is said again. Each
// try has a line of the client's anyway.
const complainEvery = time.Hour

// complaint says in the log why a device is not connected and what can be done
// about it: when that changes, and now and then.
type complaint struct {
	log     *slog.Logger
	explain func(error) (reason, next string)

	next string // what was said last
	at   time.Time
	same int // failures since
}

// say is for device.Options.OnDisconnect, which is called by one goroutine.
func (c *complaint) say(err error, retry time.Duration) {
	reason, next := c.explain(err)
	if next == "" || errors.Is(err, client.ErrDraining) {
		return
	}
	now := time.Now()
	if c.same++; next == c.next && now.Sub(c.at) < complainEvery {
		return
	}
	attrs := []any{"reason", reason, "next", next}
	if next == c.next {
		attrs = append(attrs, "failures", c.same, "for", now.Sub(c.at).Round(time.Second).String())
	}
	c.log.Warn("not connected", append(attrs, "retry_in", retry.Round(time.Millisecond).String())...)
	c.next, c.at, c.same = next, now, 0
}
