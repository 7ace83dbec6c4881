package client

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"time"
)

// Carrier says how the records of the inner TLS travel.
type Carrier string

const (
	// CarrierAuto tries WebSocket, and POST when that fails or takes its time.
	CarrierAuto Carrier = "auto"
	// CarrierWebSocket is WebSocket binary messages, nothing else.
	CarrierWebSocket Carrier = "websocket"
	// CarrierPOST is the bodies of POST requests, nothing else.
	CarrierPOST Carrier = "post"
)

func (c Carrier) other() Carrier {
	if c == CarrierPOST {
		return CarrierWebSocket
	}
	return CarrierPOST
}

// headStart is what the first carrier has before the second one starts too.
const headStart = 2500 * time.Millisecond

// CarriersError says why neither carrier led to a session.
type CarriersError struct {
	WebSocket, POST error
}

// Error tells both reasons.
func (e *CarriersError) Error() string {
	return "websocket: " + e.WebSocket.Error() + "; post: " + e.POST.Error()
}

// Unwrap returns both errors, that of WebSocket first.
func (e *CarriersError) Unwrap() []error { return []error{e.WebSocket, e.POST} }

// race dials with the first carrier, and with the other one when that has
// failed, for whatever reason, or is not ready after its head start. The first
// session that is ready wins; the other one is closed. Only Ready counts: boxes
// answer 101 and let nothing through.
func race(ctx context.Context, first Carrier, dial func(context.Context, Carrier) (*Session, error)) (*Session, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		kind Carrier
		s    *Session
		err  error
	}
	results := make(chan result, 2)
	running := 0
	start := func(kind Carrier) {
		running++
		go func() {
			s, err := dial(ctx, kind)
			results <- result{kind, s, err}
		}()
	}
	start(first)
	head := time.NewTimer(headStart)
	defer head.Stop()
	var won *Session
	errs := map[Carrier]error{}
	second := false
	for running > 0 {
		select {
		case <-head.C:
		case r := <-results:
			running--
			switch {
			case r.err != nil:
				errs[r.kind] = r.err
			case won != nil:
				_ = r.s.Close()
			default:
				won = r.s
				cancel() // of the other one's dialing
			}
			if won != nil || r.err != nil && conclusive(r.err) {
				continue
			}
		}
		if !second && won == nil && ctx.Err() == nil {
			second = true
			start(first.other())
		}
	}
	if won != nil {
		return won, nil
	}
	if len(errs) < 2 {
		return nil, errs[first]
	}
	return nil, &CarriersError{errs[CarrierWebSocket], errs[CarrierPOST]}
}

// conclusive tells the failures that the other carrier would meet too: the real
// server's refusal, and having no connection at all.
func conclusive(err error) bool {
	var refused *RefusedError
	var dns *net.DNSError
	var op *net.OpError
	var carrier *CarrierError
	var verify *tls.CertificateVerificationError
	switch {
	case errors.As(err, &refused), errors.As(err, &dns):
		return true
	case errors.As(err, &op) && (op.Op == "dial" || op.Op == "proxyconnect" || strings.HasPrefix(op.Op, "socks")):
		return true
	case errors.As(err, &carrier):
		return carrier.Op == "proxy" || errors.As(err, &verify)
	}
	return false
}
