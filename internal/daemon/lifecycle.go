package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"syscall"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/expose"
	"github.com/atls-ws/atls-ws/server"
)

// daemon is what Run owns; close undoes whatever open has done.
type daemon struct {
	log      *slog.Logger
	server   *server.Server
	services *expose.Services
	counts   outerCounts
	outer    *http.Server
	admin    *api
	wg       sync.WaitGroup

	outerListener net.Listener
	adminListener *socket
}

func (d *daemon) open(ctx context.Context, cfg *config.Server) error {
	inner, err := cfg.TLS()
	if err != nil {
		return err
	}
	outer, err := cfg.OuterTLS()
	if err != nil {
		return err
	}
	sets, err := cfg.AnchorSets()
	if err != nil {
		return err
	}
	mux := new(server.Mux)
	c := &server.Config{
		TLS: inner, Identify: cfg.Identify(), Mux: mux, Origins: cfg.Origins, Logger: d.log,
		Hooks: server.Hooks{Connected: d.counts.connected},
		Limits: server.Limits{
			Sessions: cfg.Limits.Sessions, HalfOpen: cfg.Limits.HalfOpen, Streams: cfg.Limits.Streams,
			ReadyTimeout: cfg.Limits.ReadyTimeout, Keepalive: cfg.Limits.Keepalive,
		},
	}
	for _, name := range slices.Sorted(maps.Keys(sets)) {
		c.Anchors = append(c.Anchors, server.AnchorSet{Name: name, Certificates: sets[name]})
	}
	if _, taken := cfg.Services[server.ServiceHTTP]; !taken {
		c.Handler = http.HandlerFunc(status)
	}
	if d.server, err = server.New(c); err != nil {
		return err
	}
	if d.services, err = expose.Start(mux, cfg.Services, d.log); err != nil {
		return err
	}
	if d.outerListener, err = listen(ctx, cfg.Listen); err != nil {
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
	if outer != nil {
		d.outerListener = tls.NewListener(d.outerListener, outer)
	}
	d.admin = newAPI(d.server, &d.counts, d.log)
	d.admin.http = d.httpServer(d.admin.routes())
	return nil
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

// shutdown stops what comes in, then asks the devices to go. The admin API stays
// until the devices are gone: what it is waiting for gets its answer.
func (d *daemon) shutdown() {
	d.log.Info("stopping", "devices", d.server.Registry().Len(), "within", shutdownTime.String())
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTime)
	defer cancel()
	d.wg.Go(func() { _ = d.outer.Shutdown(ctx) })
	if err := d.server.Shutdown(ctx); err != nil {
		d.log.Warn("devices were cut off", "err", err)
	}
	_ = d.admin.http.Shutdown(ctx)
	d.log.Info("stopped")
}

func (d *daemon) close() {
	if d.outer != nil {
		_ = d.outer.Close()
	}
	if d.server != nil {
		_ = d.server.Close()
	}
	if d.services != nil {
		d.services.Close()
	}
	if d.outerListener != nil {
		_ = d.outerListener.Close()
	}
	if d.admin != nil {
		_ = d.admin.http.Close()
		d.admin.wait()
	}
	if d.adminListener != nil {
		_ = d.adminListener.Close()
	}
	d.wg.Wait()
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
