package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/watch"
	"github.com/atls-ws/atls-ws/server"
)

// reloader reads certificates, authorities, CRLs, anchors and services again
// when their files or the configuration change. Sessions live on, except of
// those whom a CRL or a removed authority shuts out. What is in error is
// refused as a whole, and the old stays.
type reloader struct {
	d       *daemon
	read    func() (*config.Server, error) // nil: the configuration stays what it was
	file    string
	cfg     *config.Server // in force; the goroutine of run alone writes it
	now     atomic.Pointer[config.Server]
	inner   atomic.Pointer[tls.Config]
	outer   atomic.Pointer[tls.Config] // nil: plain HTTP
	console atomic.Pointer[tls.Config]
	failed  atomic.Bool         // the last reading
	factory []*x509.Certificate // authorities of the factory, since the start
	asked   chan struct{}
	cancel  context.CancelFunc
}

// material is what the files of a configuration hold.
type material struct {
	inner, outer, console *tls.Config
	anchors               []server.AnchorSet
}

// loadMaterial reads the files, and reports everything that is wrong with them.
func loadMaterial(cfg *config.Server) (*material, error) {
	m := &material{}
	var innerErr, outerErr, consoleErr error
	m.inner, innerErr = cfg.TLS()
	m.outer, outerErr = cfg.OuterTLS()
	if cfg.Console != (config.Console{}) {
		m.console, consoleErr = cfg.Console.TLS()
	}
	sets, anchorErr := cfg.AnchorSets()
	_, ticketErr := cfg.TicketKeys(time.Now())
	for _, name := range slices.Sorted(maps.Keys(sets)) {
		m.anchors = append(m.anchors, server.AnchorSet{Name: name, Certificates: sets[name]})
	}
	return m, errors.Join(innerErr, outerErr, consoleErr, anchorErr, ticketErr)
}

func newReloader(d *daemon, cfg *config.Server, o Options, m *material) *reloader {
	r := &reloader{d: d, cfg: cfg, read: o.Load, file: o.ConfigFile, asked: make(chan struct{}, 1)}
	r.use(cfg, m)
	return r
}

func (r *reloader) use(cfg *config.Server, m *material) {
	r.cfg = cfg
	r.now.Store(cfg)
	r.inner.Store(m.inner)
	r.outer.Store(m.outer)
	r.console.Store(m.console)
}

// following is a configuration that always is what p points to. Tickets are of
// its own keys, so that they outlive what changes.
func following(p *atomic.Pointer[tls.Config]) *tls.Config {
	c := p.Load()
	if c == nil {
		return nil
	}
	c = c.Clone()
	c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return p.Load(), nil }
	return c
}

// verify is what the files in force say of a peer.
func (r *reloader) verify(cs tls.ConnectionState) error {
	if r.now.Load().Enrolls() && len(cs.PeerCertificates) == 0 {
		return nil // it comes for a certificate
	}
	err := r.inner.Load().VerifyConnection(cs)
	if errors.Is(err, config.ErrOtherCA) && slices.ContainsFunc(cs.VerifiedChains, r.ofFactory) {
		return nil // enrollment decides on it
	}
	return err
}

// ofFactory says whether an authority of the factory vouches for a chain: TLS
// verifies under these as well, and under authorities of devices that were taken
// out since the start.
func (r *reloader) ofFactory(chain []*x509.Certificate) bool {
	return slices.ContainsFunc(r.factory, chain[len(chain)-1].Equal)
}

// run watches until close.
func (r *reloader) run() {
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	r.turnTickets()
	files := &watch.Files{Paths: r.paths, Ask: r.asked, Changed: func(bool) { r.reload() }}
	files.Note()
	r.d.wg.Go(func() { files.Run(ctx) })
	r.d.wg.Go(func() { r.warnOfExpiry(ctx) })
	r.d.wg.Go(func() { r.keepTurningTickets(ctx) })
}

func (r *reloader) close() {
	if r.cancel != nil {
		r.cancel()
	}
}

// ask reads everything again soon.
func (r *reloader) ask() {
	select {
	case r.asked <- struct{}{}:
	default:
	}
}

func (r *reloader) paths() []string {
	c := r.now.Load()
	paths := []string{r.file, c.Inner.Cert, c.Inner.Key, c.Inner.ClientCA, c.Inner.Tickets, c.Outer.Cert, c.Outer.Key, c.Console.Cert, c.Console.Key, c.Console.ClientsCA}
	paths = append(paths, c.Inner.CRL...)
	return append(paths, slices.Collect(maps.Values(c.Anchors))...)
}

func (r *reloader) reload() {
	cfg := r.cfg
	if r.read != nil {
		read, err := r.read()
		if err != nil {
			r.refuse("configuration", err)
			return
		}
		cfg = r.reloadable(read)
	}
	m, err := loadMaterial(cfg)
	if err != nil {
		r.refuse("files", err)
		return
	}
	if err := r.d.server.SetAnchors(m.anchors); err != nil {
		r.refuse("anchors", err)
		return
	}
	if err := r.d.services.Set(cfg.Services); err != nil {
		r.refuse("services", err)
		return
	}
	r.use(cfg, m)
	r.turnTickets()
	r.failed.Store(false)
	ended := r.d.server.Recheck()
	r.d.metrics.reloaded(true)
	r.d.log.Info("read again: certificates, authorities, CRLs, anchors and services", "services", len(cfg.Services),
		"anchors", len(cfg.Anchors), "crls", len(cfg.Inner.CRL), "sessions_ended", ended)
}

// refuse keeps what is in force.
func (r *reloader) refuse(what string, err error) {
	r.failed.Store(true)
	r.d.metrics.reloaded(false)
	reason, next := err.Error(), "correct it: it is read again when it changes; atls-ws server --config FILE --check tries it"
	var file *config.FileError
	if errors.As(err, &file) {
		next = file.Next + "; it is read again when it changes"
	}
	r.d.log.Error("not read again: the old "+what+" stays in force", "reason", strings.ReplaceAll(reason, "\n", "; "), "next", next)
}

// reloadable is what is in force with the parts of read that can change while
// the server runs. It says which others have changed.
func (r *reloader) reloadable(read *config.Server) *config.Server {
	cfg := *r.cfg
	identity := cfg.Inner.Identity
	cfg.Inner, cfg.Anchors, cfg.Services, cfg.AllowExec = read.Inner, read.Anchors, read.Services, read.AllowExec
	cfg.Authorization = read.Authorization // which the guard reads
	if cfg.Inner.Identity != identity {
		cfg.Inner.Identity = identity
	}
	if (cfg.Outer == config.ServerOuter{}) == (read.Outer == config.ServerOuter{}) {
		cfg.Outer = read.Outer
	}
	if (cfg.Console == config.Console{}) == (read.Console == config.Console{}) {
		cfg.Console.Cert, cfg.Console.Key, cfg.Console.ClientsCA = read.Console.Cert, read.Console.Key, read.Console.ClientsCA
	}
	if fields := different(&cfg, read); len(fields) > 0 {
		r.d.log.Warn("changes that wait for a restart", "fields", strings.Join(fields, ", "))
	}
	return &cfg
}

// different names the fields in which two configurations are not the same.
func different(a, b *config.Server) (fields []string) {
	va, vb := reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem()
	for i := range va.NumField() {
		name := va.Type().Field(i).Tag.Get("yaml")
		if name != "" && fmt.Sprint(va.Field(i).Interface()) != fmt.Sprint(vb.Field(i).Interface()) {
			fields = append(fields, name)
		}
	}
	return fields
}
