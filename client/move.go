package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"slices"
	"time"
)

// move is a session that is ready to take the place of the one before.
type move struct {
	s   *Session
	cfg *Config
	to  string // for the log
}

// hand hands over a session, or closes it when the client ends.
func (l *life) hand(ctx context.Context, m move) {
	select {
	case l.moves <- m:
	case <-ctx.Done():
		_ = m.s.Close()
	}
}

// tryWebSocket hands over the first session that it can make over a WebSocket,
// and ends. It sends nothing early: that may be what the network did not let
// through, and nobody waits for this session.
func (l *life) tryWebSocket(ctx context.Context) {
	for {
		timer := time.NewTimer(l.c.paths.retryIn(l.network))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		cfg := l.c.config()
		c := *cfg
		c.Carrier, c.EarlyHello = CarrierWebSocket, false
		s, err := connect(ctx, &c, CarrierWebSocket, l.attempt)
		if ctx.Err() != nil && err != nil {
			return
		}
		if err != nil {
			l.cfg.Logger.Debug("websocket still fails", "err", err)
			l.c.paths.gaveUp(l.network)
			continue
		}
		l.hand(ctx, move{s, cfg, "websocket"})
		return
	}
}

// certificateRetry is the pause before a certificate that did not work is tried again:
// the session with the one before goes on meanwhile.
const certificateRetry = time.Minute

// renew moves to a session with the certificate that Update has brought, if it is
// another one, so that the old one can be revoked or expire.
func (l *life) renew(ctx context.Context) {
	if !certificateChanged(l.cfg.TLS, l.c.config().TLS) {
		return
	}
	if l.renewal != nil {
		l.renewal()
	}
	ctx, l.renewal = context.WithCancel(ctx)
	l.wg.Go(func() { l.tryCertificate(ctx) })
}

// tryCertificate hands over the first session that it can make with the newest
// configuration, and ends.
func (l *life) tryCertificate(ctx context.Context) {
	for {
		cfg := l.c.config()
		s, err := connect(ctx, cfg, l.c.paths.first(l.network), l.attempt)
		if err == nil {
			l.hand(ctx, move{s, cfg, "the new certificate"})
			return
		}
		if ctx.Err() != nil {
			return
		}
		cfg.Logger.Warn("no session with the new certificate: the one with the old goes on", "err", err, "retry_in", certificateRetry.String())
		timer := time.NewTimer(certificateRetry)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// certificateChanged says whether a device may show another certificate. What a
// GetClientCertificate gives cannot be known before.
func certificateChanged(a, b *tls.Config) bool {
	if a.GetClientCertificate != nil || b.GetClientCertificate != nil {
		return a != b
	}
	same := func(x, y tls.Certificate) bool { return slices.EqualFunc(x.Certificate, y.Certificate, bytes.Equal) }
	return !slices.EqualFunc(a.Certificates, b.Certificates, same)
}

const (
	retireWithin = 5 * time.Minute
	retireEvery  = time.Second
)

// retire lets the streams of a session end before it closes it.
func retire(ctx context.Context, s *Session) {
	ctx, cancel := context.WithTimeout(ctx, retireWithin)
	defer cancel()
	tick := time.NewTicker(retireEvery)
	defer tick.Stop()
	for s.Busy() {
		select {
		case <-tick.C:
			continue
		case <-s.Done():
		case <-ctx.Done():
		}
		break
	}
	_ = s.Close()
}
