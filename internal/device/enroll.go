package device

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/config"
)

const (
	enrollRetry   = time.Second // after the first failure; it doubles
	enrollSlowest = 5 * time.Minute
	enrollTimeout = 2 * time.Minute
)

// enrolled is enroll, and keeps the certificate renewed beside, until ctx ends.
func enrolled(ctx context.Context, beside *sync.WaitGroup, cc *client.Config, cfg *config.Device, o Options) error {
	e, err := enroll(ctx, cc, cfg, o)
	if err != nil {
		return err
	}
	beside.Go(func() { _ = e.Keep(ctx) })
	return nil
}

// enroll reads the device's certificate or gets it from the server, trying again
// until ctx ends, and lets cc's sessions have it. With Once, and where trying
// again is of no use, the first failure is the error.
func enroll(ctx context.Context, cc *client.Config, cfg *config.Device, o Options) (*client.Enrollment, error) {
	for failures := 0; ; failures++ {
		factory, token, err := cfg.Enroll.Secret()
		if err != nil {
			return nil, err
		}
		e, err := enrollWithin(ctx, cc, &client.EnrollOptions{
			CertFile: cfg.Inner.Cert, KeyFile: cfg.Inner.Key, Device: cfg.Enroll.Device, Factory: factory, Token: token,
		})
		if err == nil {
			cc.TLS.GetClientCertificate = e.GetClientCertificate
			return e, nil
		}
		if ctx.Err() != nil || o.Once || errors.Is(err, client.ErrNoIdentity) {
			return nil, err
		}
		retry := min(enrollRetry<<min(failures, 10), enrollSlowest)
		wait := client.Wait
		var no *client.EnrollError
		if errors.As(err, &no) { // the server has answered: another network changes nothing
			retry = max(enrollSlowest/5, min(no.RetryAfter, enrollSlowest))
			wait = sleep
		}
		retry += rand.N(retry)
		o.Logger.Warn("not enrolled", "err", err, "retry_in", retry.Round(time.Millisecond).String())
		if o.OnDisconnect != nil {
			o.OnDisconnect(err, retry)
		}
		early, err := wait(ctx, retry)
		if err != nil {
			return nil, err
		}
		if early {
			o.Logger.Info("the machine slept, or has an address that is new: trying again")
			failures = 0
		}
	}
}

// sleep is client.Wait without its reasons to end early.
func sleep(ctx context.Context, d time.Duration) (early bool, err error) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return false, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

func enrollWithin(ctx context.Context, cc *client.Config, o *client.EnrollOptions) (*client.Enrollment, error) {
	ctx, cancel := context.WithTimeout(ctx, enrollTimeout)
	defer cancel()
	return client.Enroll(ctx, cc, o)
}
