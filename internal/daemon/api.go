package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/server"
)

// api is the admin API; package admin says what it serves.
type api struct {
	server *server.Server
	outer  *outerCounts
	log    *slog.Logger
	http   *http.Server
	streams
}

func newAPI(s *server.Server, outer *outerCounts, log *slog.Logger) *api {
	return &api{server: s, outer: outer, log: log}
}

func (a *api) routes() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /v1/devices", a.devices)
	m.HandleFunc("POST /v1/devices/{id}/signals", a.push)
	m.HandleFunc("POST /v1/devices/{id}/services/{service}", a.dial)
	m.HandleFunc("GET /v1/streams/{stream}", a.stream)
	return m
}

func (a *api) devices(w http.ResponseWriter, _ *http.Request) {
	all := []admin.Device{}
	for s := range a.server.Registry().All() {
		hello := s.Hello()
		d := admin.Device{
			Device: s.Device(), Session: s.ID(), Since: s.Opened().UTC(), Address: s.RemoteAddr().String(),
			Carrier: hello.Carrier, Software: hello.Software, Services: hello.Services, Counts: a.outer.of(s.Device()),
		}
		if hello.Outer != nil {
			d.Outer = hello.Outer.WithoutDER()
			d.Outer.Exporter = nil // says nothing to a person
		}
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b admin.Device) int { return cmp.Compare(a.Device, b.Device) })
	reply(w, http.StatusOK, all)
}

func (a *api) push(w http.ResponseWriter, r *http.Request) {
	timeout := admin.DefaultTimeout
	if text := r.URL.Query().Get("timeout"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil || d <= 0 || d > admin.MaxTimeout {
			fail(w, http.StatusBadRequest, "timeout: want a duration up to "+admin.MaxTimeout.String()+", such as 30s")
			return
		}
		timeout = d
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, admin.MaxData))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		fail(w, http.StatusRequestEntityTooLarge, "a signal's data is at most 64 KiB")
		return
	} else if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	sig := server.Signal{Name: r.URL.Query().Get("name"), ContentType: r.Header.Get("Content-Type"), Data: data}
	if err := sig.Check(); err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	text, err := a.server.Push(ctx, r.PathValue("id"), sig)
	if err != nil {
		replyError(w, err)
		return
	}
	reply(w, http.StatusOK, admin.Outcome{State: admin.Acked, Text: text})
}

// replyError answers with what went wrong between the server and the device.
func replyError(w http.ResponseWriter, err error) {
	refused := (*server.RefusedError)(nil)
	switch {
	case errors.As(err, &refused):
		reply(w, http.StatusConflict, admin.Outcome{State: admin.Refused, Code: refused.Code.String(), Text: refused.Text})
	case errors.Is(err, server.ErrNotConnected):
		reply(w, http.StatusNotFound, admin.Outcome{State: admin.NotConnected})
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
