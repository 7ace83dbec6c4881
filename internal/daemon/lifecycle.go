package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/daemon/access"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/daemon/events"
	"github.com/atls-ws/atls-ws/internal/daemon/fleet"
	"github.com/atls-ws/atls-ws/internal/expose"
	"github.com/atls-ws/atls-ws/internal/limit"
	"github.com/atls-ws/atls-ws/internal/session"
	"github.com/atls-ws/atls-ws/internal/systemd"
	"github.com/atls-ws/atls-ws/server"
)

// daemon is what Run owns; close undoes whatever open has done.
type daemon struct {
	log      *slog.Logger
	fleet    *fleet.Fleet
	file     string // of the configuration
	server   *server.Server
	services *expose.Services
	limits   *limit.Peers // of devices and of operators together
	counts   outerCounts
	outer    *http.Server
	admin    *api
	guard    *access.Guard
	reloader *reloader
	pages    *pages
	metrics  *metrics
	version  string
	sockets  map[string]net.Listener // of the service manager, not used yet
	stopping atomic.Bool
	watching *http.Server // of metrics:; nil: there is none
	reach    *reach
	routes   *routes
	ownHTTP  bool // the service http is the daemon's own
	console  *console
	peers    *peers
	drain    time.Duration
	wg       sync.WaitGroup

	outerListener net.Listener
	adminListener *socket
	listeners     listeners
	events        *events.Log
}

func (d *daemon) open(ctx context.Context, cfg *config.Server, o Options) error {
	m, err := loadMaterial(cfg)
	if err != nil {
		return err
	}
	if d.sockets, err = systemd.Listeners(); err != nil {
		return &StartError{err, "in the .socket unit, give one ListenStream each the FileDescriptorName outer or console"}
	}
	enroll, err := enrollment(cfg, m.inner, d.log)
	if err != nil {
		return err
	}
	d.reloader = newReloader(d, cfg, o, m)
	d.drain = cmp.Or(cfg.Drain, shutdownTime)
	if err := d.openPeers(ctx, cfg); err != nil {
		return err
	}
	if d.guard, err = access.Open(cfg, d.file, d.log); err != nil {
		return &StartError{fmt.Errorf("audit: %w", err), "name a file that can be written to, or remove audit from the configuration"}
	}
	d.guard.Observe = d.metrics.decided
	fc := d.fleetConfig(cfg)
	fc.Node = d.peers.node(cfg)
	if d.fleet, err = fleet.Open(ctx, fc); err != nil {
		return err
	}
	d.events = events.New(keptEvents)
	if err = d.fleet.Events(d.events.Add); err != nil {
		return err
	}
	mux := new(server.Mux)
	mux.OnSignal(server.AnySignal, d.fleet.FromDevice)
	inner := following(&d.reloader.inner)
	if enroll != nil {
		// Enrollment makes a pool of its own of the authorities: one that is added
		// counts after a restart, one that is taken out at once. It lets in who has
		// no certificate yet, or one of the factory, and decides on them itself.
		d.reloader.factory = enroll.Factory
		inner = m.inner.Clone()
		inner.VerifyConnection = d.reloader.verify
	}
	c := &server.Config{
		TLS: inner, Anchors: m.anchors, Identify: cfg.Identify(), Mux: mux, Origins: cfg.Origins, Logger: d.log,
		Queue: d.fleet.Queue(), Enrollment: enroll,
		Hooks: server.Hooks{
			Connected:    func(s *server.Session) { d.metrics.connected(s); d.connected(s) },
			Disconnected: func(s *server.Session, err error) { d.metrics.disconnected(s, err); d.disconnected(s, err) },
			Refused:      d.metrics.refused, RefusedRequest: d.metrics.refusedRequest,
		},
		Admit:            d.admit,
		AuthorizeService: d.authorizeService,
		Limits: server.Limits{
			Sessions: cfg.Limits.Sessions, HalfOpen: cfg.Limits.HalfOpen, Streams: cfg.Limits.Streams, Unread: cfg.Limits.Unread,
			SignalRate: cfg.Limits.Signals, ReadyTimeout: cfg.Limits.ReadyTimeout, Keepalive: cfg.Limits.Keepalive,
		},
	}
	if _, taken := cfg.Services[server.ServiceHTTP]; !taken {
		d.ownHTTP = true
		if d.routes, err = newRoutes(cfg.Routes, d.guard, d.log); err != nil {
			return err
		}
		c.Handler = d.routes
	}
	if d.server, err = server.New(c); err != nil {
		return err
	}
	d.fleet.Serve(d.server.Registry())
	recheck := func() { d.server.Recheck() }
	d.fleet.OnDenied(recheck)
	d.guard.OnChange(recheck)
	d.limits = &limit.Peers{Rate: cfg.Limits.DeviceRate, Each: cfg.Limits.StreamRate}
	if d.services, err = expose.Start(mux, cfg.Services, expose.Options{Logger: d.log, Limits: d.limits}); err != nil {
		return err
	}
	if d.outerListener, err = d.passed("outer", func() (net.Listener, error) { return listen(ctx, cfg.Listen) }); err != nil {
		return err
	}
	path := cfg.Admin
	if path == "" {
		path = admin.DefaultPath()
	}
	if d.adminListener, err = listenSocket(ctx, path); err != nil {
		return err
	}
	routes := http.NewServeMux()
	routes.Handle(cfg.Path, d.server)
	d.outer = d.httpServer(routes)
	d.outer.ReadTimeout = readTimeout // net/http waits for a body also where nobody reads it
	if outer := following(&d.reloader.outer); outer != nil {
		d.outerListener = d.server.Listener(d.outerListener, outer)
	}
	d.reach = &reach{server: d.server, wake: d.wake, fleet: d.fleet, peers: d.peers, limits: d.limits, dials: &limit.Peers{Conns: cmp.Or(cfg.Limits.Dials, defaultDials)}}
	d.admin = newAPI(d.server, d.fleet, &d.counts, d.reach, d.guard, d.log)
	d.admin.events, d.admin.emit, d.admin.keepalive = d.events, d.emit, keepaliveOf(cfg)
	api := d.allow(d.admin.routes())
	if d.pages, err = newPages(d); err != nil {
		return err
	}
	d.admin.http = d.httpServer(ownSocket(d.guard, d.local(api)))
	d.metrics.registry.MustRegister(&numbers{d})
	if d.peers != nil {
		d.peers.answer()
	}
	if err := d.openConsole(ctx, cfg, api); err != nil {
		return err
	}
	d.reloader.run()
	if err := d.openWatching(ctx, cfg.Metrics); err != nil {
		return err
	}
	return d.listen(ctx, cfg)
}

// keepaliveOf is that of devices' sessions, and of streams of operators and nodes.
func keepaliveOf(cfg *config.Server) time.Duration {
	return cmp.Or(cfg.Limits.Keepalive, session.DefaultKeepalive)
}

func (d *daemon) httpServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
	}
}

// shutdown asks the devices to go. Meanwhile new ones are refused; but the
// listener stays open, for sessions over POST need it to their end. The admin API
// stays until the devices are gone: what it is waiting for gets its answer.
func (d *daemon) shutdown() {
	d.stopping.Store(true)
	_ = systemd.Notify(systemd.Stopping, systemd.Status("handing devices off"))
	d.log.Info("stopping", "devices", d.server.Registry().Len(), "within", d.drain.String())
	ctx, cancel := context.WithTimeout(context.Background(), d.drain)
	defer cancel()
	if d.console != nil {
		d.wg.Go(func() { _ = d.console.http.Shutdown(ctx) })
	}
	if err := d.server.Shutdown(ctx); err != nil {
		d.log.Warn("devices were cut off", "err", err)
	}
	d.events.Close()
	_ = d.outer.Shutdown(ctx)
	_ = d.admin.http.Shutdown(ctx)
	d.log.Info("stopped")
}

func (d *daemon) close() {
	if d.reloader != nil {
		d.reloader.close()
	}
	if d.outer != nil {
		_ = d.outer.Close()
	}
	if d.server != nil {
		_ = d.server.Close()
	}
	d.listeners.close()
	if d.console != nil {
		d.console.close()
	}
	if d.services != nil {
		d.services.Close()
	}
	if d.routes != nil {
		d.routes.close()
	}
	if d.outerListener != nil {
		_ = d.outerListener.Close()
	}
	if d.admin != nil {
		_ = d.admin.http.Close()
		d.admin.close()
	}
	if d.events != nil {
		d.events.Close()
	}
	if d.adminListener != nil {
		_ = d.adminListener.Close()
	}
	d.peers.close()
	for _, l := range d.sockets {
		_ = l.Close()
	}
	if d.watching != nil {
		_ = d.watching.Close() // last of what listens
	}
	d.wg.Wait()
	if d.fleet != nil { // last: what the devices answered until now is stored
		_ = d.fleet.Close()
	}
	if d.guard != nil {
		d.guard.Close()
	}
}

// fleetConfig is the part of the configuration that is about signals.
func (d *daemon) fleetConfig(cfg *config.Server) fleet.Config {
	c := fleet.Config{
		Dir: cfg.Data, PerDevice: cfg.Queue.PerDevice, DropOldest: cfg.Queue.WhenFull == config.WhenFullDrop,
		MaxBytes: int64(cfg.Queue.MaxMiB) << 20, MaxAge: cfg.Queue.MaxAge, Outcomes: cfg.Queue.Outcomes,
		Groups: d.guard.Groups, CloudAge: cfg.Cloud.MaxAge, CloudBytes: int64(cfg.Cloud.MaxMiB) << 20, Logger: d.log, Observe: d.metrics.signal,
		NATS: fleet.NATS{URL: cfg.NATS.URL, Credentials: cfg.NATS.Credentials, CA: cfg.NATS.CA, Replicas: cfg.NATS.Replicas, Cluster: fleet.NATSCluster(cfg.NATS.Cluster)},
	}
	if c.Dir == "" {
		c.Dir = config.DefaultData()
	}
	for _, h := range cfg.Hooks {
		c.Hooks = append(c.Hooks, fleet.Hook(h))
	}
	return c
}

// listen listens on a TCP address and explains a failure.
func listen(ctx context.Context, addr string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, &StartError{fmt.Errorf("address %s is taken by another program: %w", addr, syscall.EADDRINUSE),
			"end that program, or listen elsewhere with --listen"}
	case errors.Is(err, syscall.EACCES):
		return nil, &StartError{fmt.Errorf("address %s: %w", addr, err),
			"ports below 1024 need the capability CAP_NET_BIND_SERVICE; or listen on a higher one with --listen"}
	}
	return nil, &StartError{fmt.Errorf("address %s: %w", addr, err), "give an address of this machine to --listen"}
}
