package device

import (
	"context"
	"crypto/x509"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/expose"
	"github.com/atls-ws/atls-ws/internal/watch"
)

const (
	watchEvery  = 5 * time.Second // a device may have a slow disk
	expirySoon  = 30 * 24 * time.Hour
	expiryCheck = 12 * time.Hour
)

// reloader reads again what can change while the device runs: certificates,
// authorities, outer roots, services and signals' commands. The session goes on;
// the next one is made with what is new.
type reloader struct {
	cfg      *config.Device
	o        Options
	client   *client.Client
	mux      *client.Mux
	services *expose.Services
	status   *status
	clock    *clock
}

// run watches until ctx ends.
func (r *reloader) run(ctx context.Context) {
	asked := make(chan struct{}, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-r.o.Reload:
			}
			select {
			case asked <- struct{}{}:
			default:
			}
		}
	})
	files := &watch.Files{Every: watchEvery, Ask: asked, Changed: func(bool) { r.reload() }, Paths: func() []string {
		return []string{r.o.ConfigFile, r.cfg.Inner.Cert, r.cfg.Inner.Key, r.cfg.Inner.CA, r.cfg.Outer.Roots}
	}}
	files.Run(ctx)
}

func (r *reloader) reload() {
	cfg := r.cfg
	if r.o.Load != nil {
		read, err := r.o.Load()
		if err != nil {
			r.refuse(err)
			return
		}
		c := *r.cfg
		c.Inner, c.Outer, c.Services, c.AllowExec, c.Signals = read.Inner, read.Outer, read.Services, read.AllowExec, read.Signals
		cfg = &c
	}
	cfg.SetClock(r.clock.Now)
	inner, innerErr := cfg.TLS()
	outer, outerErr := outerConfig(cfg)
	if err := errors.Join(innerErr, outerErr); err != nil {
		r.refuse(err)
		return
	}
	if err := r.services.Set(cfg.Services); err != nil {
		r.refuse(err)
		return
	}
	for name := range r.cfg.Signals {
		if _, stays := cfg.Signals[name]; !stays {
			r.mux.OnSignal(name, nil)
		}
	}
	handleSignals(r.mux, cfg, r.o.Logger)
	if err := r.client.Update(inner, outer); err != nil {
		r.refuse(err)
		return
	}
	r.cfg = cfg
	r.note()
	r.o.Logger.Info("read again: certificates, authorities, outer roots, services and commands", "services", len(cfg.Services), "outer_policy", cfg.Outer.Policy)
	if s := r.client.Session(); s != nil && !vouched(s, inner.RootCAs, r.clock.Now()) {
		r.o.Logger.Warn("the server's certificate is of an authority that is not trusted any more: connecting anew", "session", s.ID())
		_ = s.Close()
	}
}

func (r *reloader) refuse(err error) {
	next := "correct it: it is read again when it changes"
	if file := (*config.FileError)(nil); errors.As(err, &file) {
		next = file.Next + "; it is read again when it changes"
	}
	r.o.Logger.Error("not read again: the old stays in force", "reason", strings.ReplaceAll(err.Error(), "\n", "; "), "next", next)
}

// note keeps when the device's certificate ends, and what it offers.
func (r *reloader) note() {
	r.status.set(func(s *Status) {
		s.Services = r.mux.Services()
		for _, e := range r.cfg.Expiries() {
			if e.What == "inner.cert" {
				s.CertificateEnd = e.End
			}
		}
	})
}

// warnOfExpiry says twice a day what ends within weeks.
func (r *reloader) warnOfExpiry(ctx context.Context, cfg *config.Device) {
	tick := time.NewTicker(expiryCheck)
	defer tick.Stop()
	for {
		for _, e := range cfg.Expiries() {
			if left := e.End.Sub(r.clock.Now()); left < expirySoon {
				r.o.Logger.Warn("certificate expires soon", "what", e.What, "file", e.File, "name", e.Name,
					"end", e.End.UTC().Format(time.RFC3339), "days", int(left.Hours()/24), "next", e.Next)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// vouched says whether the server's certificate of a session is still of a
// trusted authority, at the time at which it was shown.
func vouched(s *client.Session, roots *x509.CertPool, now time.Time) bool {
	chain := s.ConnectionState().PeerCertificates
	if len(chain) == 0 {
		return false
	}
	if now.After(chain[0].NotAfter) {
		now = chain[0].NotAfter // that it has ended since is no reason to end the session
	}
	opts := x509.VerifyOptions{Roots: roots, CurrentTime: now, Intermediates: x509.NewCertPool()}
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	_, err := chain[0].Verify(opts)
	return err == nil
}
