package daemon

import (
	"context"
	"fmt"
	"time"

	"github.com/atls-ws/atls-ws/internal/config"
)

const (
	expirySoon  = 30 * 24 * time.Hour // before the end of a certificate
	expiryCheck = 12 * time.Hour
)

// warnOfExpiry says twice a day what ends within weeks, or has ended.
func (r *reloader) warnOfExpiry(ctx context.Context) {
	tick := time.NewTicker(expiryCheck)
	defer tick.Stop()
	for {
		for _, e := range r.now.Load().Expiries() {
			if message := expiring(e, time.Now()); message != "" {
				r.d.log.Warn(message, "what", e.What, "file", e.File, "name", e.Name, "end", e.End.UTC().Format(time.RFC3339),
					"in", fmt.Sprintf("%d days", int(time.Until(e.End).Hours()/24)), "next", e.Next)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// expiring is what there is to say of an end; empty: nothing yet. CRLs are made
// anew every few days, so of them only an end that has passed is news.
func expiring(e config.Expiry, now time.Time) string {
	switch left := e.End.Sub(now); {
	case left <= 0 && e.CRL:
		return "CRL is out of date, and is used all the same: who was revoked since is let in"
	case left <= 0:
		return "certificate has expired"
	case left <= expirySoon && !e.CRL:
		return "certificate expires soon"
	}
	return ""
}
