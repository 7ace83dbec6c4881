package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"

	"github.com/atls-ws/atls-ws/internal/daemon/access"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/daemon/events"
	"github.com/atls-ws/atls-ws/internal/daemon/fleet"
	"github.com/atls-ws/atls-ws/server"
)

// api is the admin API; package admin says what it serves.
type api struct {
	server *server.Server
	fleet  *fleet.Fleet
	outer  *outerCounts
	reach  *reach
	guard  *access.Guard
	log    *slog.Logger
	http   *http.Server
	events *events.Log
	emit   func(admin.Event)
	streams
}

func newAPI(s *server.Server, f *fleet.Fleet, outer *outerCounts, reach *reach, guard *access.Guard, log *slog.Logger) *api {
	return &api{server: s, fleet: f, outer: outer, reach: reach, guard: guard, log: log}
}

func (a *api) routes() *table {
	m := new(table)
	m.HandleFunc("GET /v1/devices", a.devices)
	m.HandleFunc("GET /v1/devices/{id}", a.device)
	m.HandleFunc("POST /v1/devices/{id}/disconnect", a.disconnect)
	m.HandleFunc("GET /v1/devices/{id}/signals", a.queue)
	m.HandleFunc("POST /v1/devices/{id}/signals", a.push)
	m.HandleFunc("POST /v1/signals", a.pushMany)
	m.HandleFunc("GET /v1/signals", a.signals)
	m.HandleFunc("GET /v1/signals/{id}", a.signal)
	m.HandleFunc("DELETE /v1/signals/{id}", a.cancelSignal)
	m.HandleFunc("POST /v1/devices/{id}/services/{service}", a.dial)
	m.HandleFunc("GET /v1/streams/{stream}", a.stream)
	m.HandleFunc("GET /v1/events", a.eventStream)
	m.HandleFunc("POST /v1/events", a.postEvent)
	m.HandleFunc("GET /v1/groups", a.groups)
	m.HandleFunc("GET /v1/groups/{group}", a.group)
	m.HandleFunc("GET /v1/deny", a.denials)
	m.HandleFunc("PUT /v1/deny/{id}", a.deny)
	m.HandleFunc("DELETE /v1/deny/{id}", a.allowDevice)
	return m
}

// table is a mux that knows what it serves.
type table struct {
	http.ServeMux
	patterns []string
}

func (t *table) HandleFunc(pattern string, fn func(http.ResponseWriter, *http.Request)) {
	t.patterns = append(t.patterns, pattern)
	t.ServeMux.HandleFunc(pattern, fn)
}

func (a *api) devices(w http.ResponseWriter, r *http.Request) {
	sees := func(device string) bool { return a.guard.Sees(operator(r), device) }
	reply(w, http.StatusOK, a.everywhere(r.Context(), sees))
}

// everywhere are the devices that are connected at any node, by id, of those that
// the operator sees.
func (a *api) everywhere(ctx context.Context, sees func(device string) bool) []admin.Device {
	return newest(append(a.connected(sees), a.reach.peers.devices(ctx, sees)...))
}

// connected are the devices that are connected here, of those that the operator sees.
func (a *api) connected(sees func(device string) bool) []admin.Device {
	all := []admin.Device{}
	for s := range a.server.Registry().All() {
		if !sees(s.Device()) {
			continue
		}
		all = append(all, a.about(s))
	}
	return all
}

// about is what a device that is connected looks like to operators.
func (a *api) about(s *server.Session) admin.Device {
	hello := s.Hello()
	d := admin.Device{
		Device: s.Device(), Node: a.fleet.Node(), Session: s.ID(), Since: s.Opened().UTC(), Address: s.RemoteAddr().String(),
		Carrier: hello.Carrier, Software: hello.Software, Services: hello.Services, Counts: a.outer.of(s.Device()),
	}
	if d.Services == nil {
		d.Services = []string{}
	}
	if hello.Outer != nil {
		d.Outer = hello.Outer.WithoutDER()
		d.Outer.Exporter = nil // says nothing to a person
	}
	return d
}

// replyError answers with what went wrong: with the device, with the store, or
// with the request.
func replyError(w http.ResponseWriter, err error) {
	refused := (*server.RefusedError)(nil)
	unavailable := (*fleet.UnavailableError)(nil)
	request := (*fleet.RequestError)(nil)
	switch {
	case errors.As(err, &unavailable):
		reply(w, http.StatusServiceUnavailable, admin.Outcome{State: admin.Unavailable, Text: err.Error(), Next: unavailable.Next()})
	case errors.As(err, &request):
		fail(w, http.StatusBadRequest, err.Error())
	case errors.Is(err, fleet.ErrUnknown), errors.Is(err, fleet.ErrNotDenied):
		reply(w, http.StatusNotFound, admin.Outcome{State: admin.Unknown, Text: err.Error()})
	case errors.As(err, &refused):
		reply(w, http.StatusConflict, admin.Outcome{State: admin.Refused, Code: refused.Code.String(), Text: refused.Text})
	case errors.Is(err, server.ErrNotConnected):
		text := ""
		if late := (*lateError)(nil); errors.As(err, &late) {
			text = late.Error()
		}
		reply(w, http.StatusNotFound, admin.Outcome{State: admin.NotConnected, Text: text})
	case errors.Is(err, context.DeadlineExceeded):
		reply(w, http.StatusGatewayTimeout, admin.Outcome{State: admin.Timeout})
	default:
		fail(w, http.StatusBadGateway, err.Error())
	}
}

func fail(w http.ResponseWriter, code int, text string) {
	reply(w, code, admin.Outcome{State: admin.Failed, Text: text})
}

func reply(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // an error means that nobody reads it
}
