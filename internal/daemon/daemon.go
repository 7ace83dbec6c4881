// Package daemon is the server role of the atls-ws command: the outer listener
// with a server.Server behind it, the services that devices may reach, and the
// admin API that the operator's verbs use.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/systemd"
)

const (
	headerTimeout = 10 * time.Second // outer TLS and request header
	readTimeout   = 30 * time.Second // a whole request of a stranger's; above what a POST may be held
	idleTimeout   = time.Minute
	maxHeader     = 16 << 10
	shutdownTime  = 10 * time.Second
)

// Options are what is not part of the configuration file.
type Options struct {
	// Logger is required.
	Logger *slog.Logger
	// ConfigFile is where the configuration was read from, whose rules are read
	// again when it changes; empty: it was not.
	ConfigFile string
	// Load reads and validates the configuration again, with whatever lies over
	// the file; nil: it stays, and only the files that it names are read again.
	Load func() (*config.Server, error)
	// Reload asks to read everything again that can change while the server runs,
	// and to begin a new audit file; nil: never.
	Reload <-chan os.Signal
	// Version of the program, for the metrics.
	Version string
	// Ready is called when devices and operators can connect, with the address
	// that is listened on; it may be nil.
	Ready func(addr net.Addr, admin string)
}

// StartError is a reason not to start that the operator can remove.
type StartError struct {
	Err  error
	next string
}

// Error gives the reason.
func (e *StartError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *StartError) Unwrap() error { return e.Err }

// Next says what to do about it.
func (e *StartError) Next() string { return e.next }

// Run is a server until ctx ends. It then asks the devices to go, within ten
// seconds, and returns nil; nothing of it still runs. cfg has been validated.
func Run(ctx context.Context, cfg *config.Server, o Options) error {
	d := &daemon{log: o.Logger, file: o.ConfigFile, metrics: newMetrics(), version: o.Version}
	defer d.close()
	if err := d.open(ctx, cfg, o); err != nil {
		return err
	}
	ended := make(chan error, 4)
	serve := func(what string, srv *http.Server, l net.Listener) {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			ended <- fmt.Errorf("%s: %w", what, err)
		}
	}
	d.wg.Go(func() { serve("listener", d.outer, d.outerListener) })
	d.wg.Go(func() { serve("admin socket", d.admin.http, d.adminListener) })
	if d.console != nil {
		d.wg.Go(func() { serve("console", d.console.http, d.console.listener) })
	}
	if d.peers != nil {
		d.wg.Go(func() { serve("listener for nodes", d.peers.http, d.peers.listener) })
	}
	addr, socket := d.outerListener.Addr(), d.adminListener.path
	d.log.Info("listening", "addr", addr.String(), "path", cfg.Path, "outer_tls", cfg.Outer.Cert != "", "admin", socket)
	if o.Ready != nil {
		o.Ready(addr, socket)
	}
	_ = systemd.Notify(systemd.Ready, systemd.Status("listening on "+addr.String()))
	feeding, cancel := context.WithCancel(context.Background())
	defer cancel() // before close waits
	d.wg.Go(func() { systemd.Feed(feeding, d.works) })
	for {
		select {
		case err := <-ended:
			return err
		case <-o.Reload:
			d.guard.Reload()
			d.reloader.ask()
		case <-ctx.Done():
			d.shutdown()
			return nil
		}
	}
}
