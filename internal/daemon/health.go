package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/daemon/access"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/daemon/fleet"
	"github.com/atls-ws/atls-ws/server"
)

const healthTime = 2 * time.Second

// health says whether the process is of use at all, so that a new start would be
// wrong (healthz), or whether it takes devices and signals just now (readyz).
func (d *daemon) health(ctx context.Context, ready bool) *admin.Health {
	h := &admin.Health{Status: admin.HealthOK}
	stopped := admin.Check{Name: "store", OK: true}
	if d.fleet.Stopped() {
		stopped = admin.Check{Name: "store", Reason: "the embedded store has stopped", Next: "make room on the disk, or mend it, and start the server again"}
	}
	if !ready {
		h.Add(stopped)
		return h
	}
	store := admin.Check{Name: "store", OK: true}
	if err := d.fleet.Health(ctx).Err; err != nil {
		store.OK, store.Reason = false, err.Error()
		if u := (*fleet.UnavailableError)(nil); errors.As(err, &u) {
			store.Next = u.Next()
		}
	}
	h.Add(store)
	drain := admin.Check{Name: "not stopping", OK: true}
	if d.stopping.Load() {
		drain.OK, drain.Reason = false, "the server is handing its devices off"
	}
	h.Add(drain)
	st, l := d.server.Stats(), d.server.Limits()
	room := admin.Check{Name: "room for sessions", OK: true}
	if st.Sessions+st.HTTPPeers >= l.Sessions {
		room = admin.Check{Name: room.Name, Reason: fmt.Sprintf("%d sessions are live, the limit", l.Sessions), Next: "raise limits.sessions, or add a server"}
	}
	h.Add(room)
	return h
}

func (d *daemon) serveHealth(ready bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), healthTime)
		defer cancel()
		h := d.health(ctx, ready)
		status := http.StatusOK
		if h.Status != admin.HealthOK {
			status = http.StatusServiceUnavailable
		}
		reply(w, status, h)
	}
}

// seeing are the paths for programs that watch over the server.
func (d *daemon) seeing() *http.ServeMux {
	m := http.NewServeMux()
	m.Handle("GET /healthz", d.serveHealth(false))
	m.Handle("GET /readyz", d.serveHealth(true))
	m.Handle("GET /metrics", d.metrics.handler(d.log))
	return m
}

// works is asked for the watchdog: nothing that is held for every session hangs.
func (d *daemon) works() error {
	_, _ = d.server.Stats(), d.server.Registry().Len()
	return nil
}

// openWatching listens for those who watch, when the configuration says where.
func (d *daemon) openWatching(ctx context.Context, addr string) error {
	if addr == "" {
		return nil
	}
	l, err := listen(ctx, addr)
	if err != nil {
		return err
	}
	d.watching = d.httpServer(d.seeing())
	d.log.Info("metrics", "addr", l.Addr().String())
	d.wg.Go(func() { _ = d.watching.Serve(l) }) // ends with close
	return nil
}

// passed is the service manager's socket of that name, or what open opens.
func (d *daemon) passed(name string, open func() (net.Listener, error)) (net.Listener, error) {
	if l := d.sockets[name]; l != nil {
		delete(d.sockets, name)
		d.log.Info("socket of the service manager", "name", name, "addr", l.Addr().String())
		return l, nil
	}
	return open()
}

// backup is for the owner of the socket who may list every device.
func (d *daemon) backup(w http.ResponseWriter, r *http.Request) {
	if !d.guard.Operator(access.Local, "admin socket", config.ScopeList, "*", "backup").Allowed {
		reply(w, http.StatusForbidden, admin.Outcome{State: admin.Refused, Code: server.NotAllowed.String(), Text: "the server's rules do not let local list all devices"})
		return
	}
	w.Header().Set("Content-Type", "application/zip")
	if err := d.fleet.Backup(r.Context(), w); err != nil {
		d.log.Error("backup failed", "err", err)
		panic(http.ErrAbortHandler) // the file has no end
	}
	d.log.Info("backup written")
}

// local is the admin socket's handler: the API, and what only its owner sees.
func (d *daemon) local(api http.Handler) http.Handler {
	m := d.seeing()
	m.HandleFunc("GET /debug/pprof/", pprof.Index)
	m.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	m.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	m.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	m.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	m.HandleFunc("GET "+admin.BackupPath, d.backup)
	m.HandleFunc("GET /{$}", d.pages.onSocket)
	m.HandleFunc("GET /style.css", d.pages.onSocket)
	m.HandleFunc("GET /devices/{id}", d.pages.onSocket)
	m.HandleFunc("GET /signals/{id}", d.pages.onSocket)
	m.HandleFunc("POST /push", d.pages.onSocket)
	m.Handle("/", api)
	return m
}
