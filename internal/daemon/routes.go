package daemon

import (
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/daemon/access"
	"github.com/atls-ws/atls-ws/internal/web"
	"github.com/atls-ws/atls-ws/server"
)

// routes answer devices at the service http: by the configured origins, and by
// status where no route is.
type routes struct {
	guard     *access.Guard
	list      []route // those with a host first, then by the length of the path
	transport *http.Transport
}

type route struct {
	config.Route
	handler http.Handler
}

func newRoutes(list []config.Route, guard *access.Guard, log *slog.Logger) (*routes, error) {
	r := &routes{guard: guard, transport: web.Transport()}
	for _, one := range list {
		to, err := url.Parse(one.To)
		if err != nil {
			return nil, err
		}
		r.list = append(r.list, route{one, web.NewOrigin(to, r.transport, asker, log.With("route", one.ID()))})
	}
	slices.SortStableFunc(r.list, func(a, b route) int {
		if (a.Host == "") != (b.Host == "") {
			return len(b.Host) - len(a.Host)
		}
		return len(b.Path) - len(a.Path)
	})
	return r, nil
}

// asker is the device that a hosted request is of.
func asker(r *http.Request) web.Device {
	id, _ := server.Device(r.Context())
	state, _ := server.ConnectionState(r.Context())
	return web.Device{ID: id, State: state}
}

func (rs *routes) close() { rs.transport.CloseIdleConnections() }

func (rs *routes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// A path with such a segment could be of one route here and lead elsewhere
	// at the origin.
	for segment := range strings.SplitSeq(r.URL.Path, "/") {
		if segment == ".." || segment == "." {
			http.Error(w, "a path with . or .. is not taken", http.StatusBadRequest)
			return
		}
	}
	for _, one := range rs.list {
		if !one.matches(r) {
			continue
		}
		device, _ := server.Device(r.Context())
		if !rs.guard.Route(identity(r.Context(), device), one.ID()).Allowed {
			http.Error(w, "the server's rules do not let this device reach the route "+one.ID(), http.StatusForbidden)
			return
		}
		one.handler.ServeHTTP(w, r)
		return
	}
	status(w, r)
}

func (r *route) matches(req *http.Request) bool {
	host := req.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if r.Host != "" && !strings.EqualFold(r.Host, host) {
		return false
	}
	rest, ok := strings.CutPrefix(req.URL.Path, r.Path)
	return ok && (rest == "" || r.Path == "" || strings.HasSuffix(r.Path, "/") || rest[0] == '/')
}
