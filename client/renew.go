package client

import (
	"context"
	"crypto/x509"
	"errors"
	"math/rand/v2"
	"time"
)

const (
	renewTimeout = 2 * time.Minute
	renewRetry   = time.Minute // after the first failure; it doubles
	renewSlowest = 6 * time.Hour
	renewLook    = time.Hour // a clock that is set in the meantime is noticed within
)

// Keep renews the certificate when two thirds of its life are over, until ctx
// ends, and returns ctx's error. A failure is logged and tried again, with
// growing pauses. Sessions stay up: the next handshake has the new certificate.
func (e *Enrollment) Keep(ctx context.Context) error {
	failures := 0
	for next := e.renewAt(time.Time{}); ; {
		timer := time.NewTimer(min(max(0, time.Until(next)), renewLook))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		if time.Now().Before(next) {
			continue
		}
		err := e.renewWithin(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			failures, next = 0, e.renewAt(time.Now())
			continue
		}
		retry := e.retryIn(failures, err)
		failures++
		next = time.Now().Add(retry)
		e.cfg.Logger.Warn("certificate not renewed, the old one stays", "err", err,
			"not_after", e.Certificate().Leaf.NotAfter.UTC().Format(time.RFC3339), "retry_in", retry.Round(time.Second).String(), "next", renewalNext(err))
	}
}

func (e *Enrollment) renewWithin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	return e.Renew(ctx)
}

// renewAt is when the current certificate is to be renewed, and no sooner after
// the last time than a tenth of its life: an authority may give what has begun
// long ago.
func (e *Enrollment) renewAt(last time.Time) time.Time {
	leaf := e.Certificate().Leaf
	at := twoThirds(leaf)
	if !last.IsZero() {
		if soonest := last.Add(lifetime(leaf) / 10); at.Before(soonest) {
			at = soonest
		}
	}
	return at.Add(rand.N(lifetime(leaf)/50 + 1)) // a fleet does not come all at once
}

func lifetime(c *x509.Certificate) time.Duration {
	return max(c.NotAfter.Sub(c.NotBefore), time.Second)
}

func twoThirds(c *x509.Certificate) time.Time { return c.NotBefore.Add(lifetime(c) / 3 * 2) }

// retryIn grows with the failures, and leaves several tries before the end.
func (e *Enrollment) retryIn(failures int, err error) time.Duration {
	d := min(renewRetry<<min(failures, 10), renewSlowest, max(lifetime(e.Certificate().Leaf)/30, time.Second))
	var no *EnrollError
	if errors.As(err, &no) {
		d = max(d, min(no.RetryAfter, renewSlowest))
	}
	return d - d/10 + rand.N(d/5+1)
}

// renewalNext is what a person can do about a failure.
func renewalNext(err error) string {
	var no *EnrollError
	switch {
	case errors.Is(err, ErrClock):
		return "set the clock of this device"
	case errors.Is(err, ErrNoEnrollment):
		return "ask the service's operator to add enroll to the server's configuration"
	case errors.Is(err, ErrNoIdentity):
		return "the certificate has expired: give this device a token, or its factory certificate"
	case errors.As(err, &no) && no.StatusCode == 401:
		return "ask the service's operator for another token"
	case errors.As(err, &no):
		return "ask the service's operator: the server's log says why"
	}
	return "look at the way with: atls-ws doctor"
}
