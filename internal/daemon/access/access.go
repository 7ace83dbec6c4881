package access

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/watch"
)

// checkEvery is how often the configuration file is looked at for a change.
const checkEvery = time.Second

// Guard decides by the rules that are in force and records each decision. Its
// methods may be called from any goroutine.
type Guard struct {
	log   *slog.Logger
	file  string
	rules atomic.Pointer[rules]
	audit *audit
	// refusals are written to audit
	refusals refusals
	// Observe is told of every record, beside the audit log; nil: nobody. Set it
	// before the guard decides on anything.
	Observe func(Record)

	mu      sync.Mutex
	changed func()

	reload chan struct{}
	wg     sync.WaitGroup
	stop   context.CancelFunc
}

// Open makes a guard with the rules of cfg. file is where cfg was read from;
// its rules are read again when it changes, and empty means that there is none.
// The caller closes the guard.
func Open(cfg *config.Server, file string, log *slog.Logger) (*Guard, error) {
	return open(cfg, file, log, checkEvery)
}

func open(cfg *config.Server, file string, log *slog.Logger, every time.Duration) (*Guard, error) {
	a, err := openAudit(cfg.Audit, log)
	if err != nil {
		return nil, err
	}
	g := &Guard{log: log, file: file, audit: a, reload: make(chan struct{}, 1)}
	g.refusals.write = a.record
	g.rules.Store(newRules(cfg))
	ctx, cancel := context.WithCancel(context.Background())
	g.stop = cancel
	files := g.files(every)
	g.wg.Go(func() { files.Run(ctx) })
	return g, nil
}

// Close ends the watching of the file and closes the audit log.
func (g *Guard) Close() {
	g.stop()
	g.wg.Wait()
	g.refusals.close()
	g.audit.close()
}

// Reload reads the rules again, and begins a new audit file. It does not wait.
func (g *Guard) Reload() {
	select {
	case g.reload <- struct{}{}:
	default:
	}
}

// Service decides whether a device may reach a service of the server.
func (g *Guard) Service(d Device, service string) Decision {
	decision := g.rules.Load().device(d, func(r config.DeviceRule) bool { return config.AnyMatch(r.Services, service) })
	g.record(Record{Who: "device:" + d.ID, Action: "service", Device: d.ID, Target: service}, decision)
	return decision
}

// Route decides whether a device's request may go to a route.
func (g *Guard) Route(d Device, route string) Decision {
	decision := g.rules.Load().device(d, func(r config.DeviceRule) bool { return config.AnyMatch(r.Routes, route) })
	g.record(Record{Who: "device:" + d.ID, Action: "route", Device: d.ID, Target: route}, decision)
	return decision
}

// Operator decides whether an operator has a scope for a device; target is the
// service or signal that it is about, from is where the operator is.
func (g *Guard) Operator(o Operator, from, scope, device, target string) Decision {
	service := ""
	if scope == config.ScopeDial {
		service = target
	}
	decision := g.rules.Load().operator(o, scope, device, service)
	g.record(Record{Who: o.String(), Action: scope, Device: device, Target: target, From: from}, decision)
	return decision
}

// Sees says whether an operator may see a device in a list. It is part of the
// decision on the list and not recorded by itself.
func (g *Guard) Sees(o Operator, device string) bool {
	return g.rules.Load().operator(o, config.ScopeList, device, "").Allowed
}

// Groups are the groups of devices. The caller must not change them.
func (g *Guard) Groups() config.Groups { return g.rules.Load().groups }

// Denied says which entry of deny in the configuration has the device; empty:
// none has. It is not recorded.
func (g *Guard) Denied(d Device) string { return g.rules.Load().denied(d) }

// Denials are the entries of deny in the configuration.
func (g *Guard) Denials() []admin.Denial {
	var all []admin.Denial
	rules := g.rules.Load()
	for i, entry := range rules.deny {
		all = append(all, admin.Denial{Device: entry, Rule: rules.name(fmt.Sprintf("deny[%d]", i))})
	}
	return all
}

// OnChange has fn called, from the goroutine that Close waits for, after the rules were read again.
func (g *Guard) OnChange(fn func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.changed = fn
}

// Listener records a connection to a local port that the configuration leads
// to a device.
func (g *Guard) Listener(l config.Listener, from, rule string) {
	g.record(Record{Who: "listener " + l.Listen, Action: config.ScopeDial, Device: l.Device, Target: l.Service, From: from}, Decision{true, rule})
}

func (g *Guard) record(r Record, d Decision) {
	r.Time, r.Allowed, r.Rule = time.Now().UTC(), d.Allowed, d.Rule
	g.audit.record(r)
	if g.Observe != nil {
		g.Observe(r)
	}
}

// files reads the file again when it changes and when Reload says so. A file is
// read once it has settled: half of one could be without a rule, and so allow
// everything.
func (g *Guard) files(every time.Duration) *watch.Files {
	f := &watch.Files{Every: every, Ask: g.reload, Paths: func() []string { return []string{g.file} }, Changed: func(asked bool) {
		if asked {
			g.audit.reopen()
		}
		if g.file != "" {
			g.read()
		}
	}}
	f.Note()
	return f
}

// version is what changes when the file does.
type version struct {
	modified time.Time
	size     int64
}

func versionOf(path string) version {
	info, err := os.Stat(path)
	if err != nil {
		return version{}
	}
	return version{info.ModTime(), info.Size()}
}

// missing says which rules are in force and not in cfg any more. Without a list
// everybody may do everything, so what is left of a file that was cut off, by a
// full disk or an editor that has not finished, must not be taken for one.
func (g *Guard) missing(cfg *config.Server) error {
	old := g.rules.Load()
	switch {
	case versionOf(g.file).size == 0:
		return errors.New("the file is empty")
	case old.Devices != nil && cfg.Authorization.Devices == nil:
		return errors.New("authorization.devices is gone, which would allow everything: write [] to allow nothing, or start the server again")
	case old.Operators != nil && cfg.Authorization.Operators == nil:
		return errors.New("authorization.operators is gone, which would allow everything: write [] to allow nothing, or start the server again")
	}
	return nil
}

func (g *Guard) read() {
	cfg, err := config.ReadServer(g.file)
	if err == nil {
		err = cfg.ValidateAuthorization() // flags may complete the rest
	}
	if err == nil {
		err = g.missing(cfg)
	}
	if err != nil {
		g.log.Error("configuration is not read again: the old rules stay", "err", err)
		return
	}
	g.rules.Store(newRules(cfg))
	g.mu.Lock()
	changed := g.changed
	g.mu.Unlock()
	if changed != nil {
		changed()
	}
	g.log.Info("rules read again", "file", g.file, "devices", len(cfg.Authorization.Devices), "operators", len(cfg.Authorization.Operators))
}
