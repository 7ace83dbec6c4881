package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"

	"github.com/atls-ws/atls-ws/internal/daemon/access"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
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
	streams
}

func newAPI(s *server.Server, f *fleet.Fleet, outer *outerCounts, reach *reach, guard *access.Guard, log *slog.Logger) *api {
	return &api{server: s, fleet: f, outer: outer, reach: reach, guard: guard, log: log}
}

func (a *api) routes() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /v1/devices", a.devices)
	m.HandleFunc("GET /v1/devices/{id}/signals", a.queue)
	m.HandleFunc("POST /v1/devices/{id}/signals", a.push)
	m.HandleFunc("POST /v1/signals", a.pushMany)
	m.HandleFunc("GET /v1/signals", a.signals)
	m.HandleFunc("GET /v1/signals/{id}", a.signal)
	m.HandleFunc("DELETE /v1/signals/{id}", a.cancelSignal)
	m.HandleFunc("POST /v1/devices/{id}/services/{service}", a.dial)
	m.HandleFunc("GET /v1/streams/{stream}", a.stream)
	return m
}

func (a *api) devices(w http.ResponseWriter, r *http.Request) {
	reply(w, http.StatusOK, a.connected(operator(r)))
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
	case errors.Is(err, fleet.ErrUnknown):
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
