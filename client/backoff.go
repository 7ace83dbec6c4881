package client

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"
)

const (
	backoffMin   = time.Second
	backoffMax   = 5 * time.Minute
	slowMin      = 5 * time.Minute // after an answer that time alone will not change
	slowMax      = 15 * time.Minute
	healthyAfter = 60 * time.Second // a session of this age resets the backoff
	maxRetryWait = time.Hour        // what Retry-After and Drain may ask for
)

// backoff says how long to wait before the next try: full jitter from one
// second to five minutes, doubling.
type backoff struct {
	tries   int
	renewed time.Time
}

func (b *backoff) reset() { b.tries = 0 }

// renew says whether an event may begin the backoff anew: once a minute.
func (b *backoff) renew(now time.Time) bool {
	if !b.renewed.IsZero() && now.Sub(b.renewed) < healthyAfter {
		return false
	}
	b.renewed = now
	return true
}

// next is the pause after err.
func (b *backoff) next(err error) time.Duration {
	ceiling := backoffMax
	if b.tries < 9 { // 2^9 s is beyond the maximum
		ceiling = min(backoffMin<<b.tries, backoffMax)
		b.tries++
	}
	wait := backoffMin + rand.N(ceiling)
	if slow(err) {
		wait = slowMin + rand.N(slowMax-slowMin)
	}
	return max(wait, min(retryAfter(err), maxRetryWait))
}

// slow tells the answers that a retry within seconds will not change: a 4xx
// that is not about load or a proxy, a refused or untrusted certificate, a
// newer session of the same device. What ended a session that was up says little
// about the next one: a server that restarted answers 404 to its POST requests.
func slow(err error) bool {
	if errors.Is(err, ErrReplaced) {
		return true
	}
	if errors.Is(err, ErrPeerGone) || errors.Is(err, ErrDead) {
		return false
	}
	var both *CarriersError
	if errors.As(err, &both) {
		return slow(both.WebSocket) && slow(both.POST)
	}
	var up *CarrierError
	if errors.As(err, &up) {
		switch up.StatusCode {
		case http.StatusProxyAuthRequired, http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
			return false
		}
		return up.StatusCode >= 400 && up.StatusCode < 500
	}
	var refused *RefusedError
	var alert *AlertError
	var cert *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &alert), errors.As(err, &cert), errors.As(err, &unknown):
		return true
	case errors.As(err, &refused):
		return refused.Code == NotAllowed
	}
	return false
}

func retryAfter(err error) time.Duration {
	var both *CarriersError
	if errors.As(err, &both) {
		return min(retryAfter(both.WebSocket), retryAfter(both.POST))
	}
	var up *CarrierError
	if errors.As(err, &up) {
		return up.RetryAfter
	}
	var refused *RefusedError
	if errors.As(err, &refused) {
		return refused.RetryAfter
	}
	return 0
}
