package daemon

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/daemon/access"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/server"
)

// identity is who a device is to the rules. ctx is one of the server's.
func identity(ctx context.Context, device string) access.Device {
	d := access.Device{ID: device}
	if state, ok := server.ConnectionState(ctx); ok && len(state.PeerCertificates) > 0 {
		d.OU = state.PeerCertificates[0].Subject.OrganizationalUnit
	}
	return d
}

// admit decides on a device that connects or is connected: by the CRLs and
// authorities in force, and the list of the denied.
func (d *daemon) admit(device string, state tls.ConnectionState) error {
	if err := d.reloader.verify(state); err != nil {
		return err
	}
	who := access.Device{ID: device}
	if len(state.PeerCertificates) > 0 {
		who.OU = state.PeerCertificates[0].Subject.OrganizationalUnit
	}
	if denied := d.admin.denied(who); denied != nil {
		// The reason is not for whoever has the device now.
		return &server.RefusedError{Code: server.NotAllowed, Text: "the server's operators have denied this device"}
	}
	return nil
}

// authorizeService decides on a device's connection to a service. Where the
// service http is the server's own, each request is decided on by its route.
func (d *daemon) authorizeService(ctx context.Context, device, service string) error {
	if service == server.ServiceHTTP && d.ownHTTP {
		return nil
	}
	if d.guard.Service(identity(ctx, device), service).Allowed {
		return nil
	}
	return &server.RefusedError{Code: server.NotAllowed, Text: "the server's rules do not let this device reach the service " + service}
}

type operatorKey struct{}

// operator is who makes a request of the admin API.
func operator(r *http.Request) access.Operator {
	o, ok := r.Context().Value(operatorKey{}).(access.Operator)
	if !ok {
		return access.Local
	}
	return o
}

func withOperator(r *http.Request, o access.Operator) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), operatorKey{}, o))
}

// allow is the admin API for those who may use it.
func (d *daemon) allow(api http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if scope, device, target := classify(r); scope == "" || permitted(d.guard, w, r, scope, device, target) {
			api.ServeHTTP(w, r)
		}
	})
}

// permitted asks the rules about a request, and answers it when they refuse.
func permitted(guard *access.Guard, w http.ResponseWriter, r *http.Request, scope, device, target string) bool {
	from := r.RemoteAddr
	if from == "" || from == "@" {
		from = "admin socket"
	}
	who := operator(r)
	if guard.Operator(who, from, scope, device, target).Allowed {
		return true
	}
	thing := scope
	if target != "" {
		thing += " " + target
	}
	reply(w, http.StatusForbidden, admin.Outcome{State: admin.Refused, Code: server.NotAllowed.String(),
		Text: "the server's rules do not let " + who.String() + " " + thing})
	return false
}

// filtered are the lists whose handlers leave out what an operator may not see.
var filtered = []string{"devices", "deny", "groups", "events"}

// classify says what a request of the admin API is: by its method and path
// alone, so that a path which this function does not know is held to the rules
// too. A device of "*" stands for more than one.
func classify(r *http.Request) (scope, device, target string) {
	words := strings.Split(r.URL.EscapedPath(), "/")
	for i, w := range words {
		words[i], _ = url.PathUnescape(w) // the server has parsed it before
	}
	word := func(i int) string { // of /v1/0/1/2/3, however the v1 is spelled
		if i+2 < len(words) {
			return words[i+2]
		}
		return ""
	}
	read := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch {
	case word(0) == "streams" && read:
		return "", "", "" // the outcome of what was decided on before
	case r.Method == http.MethodPost && word(0) == "events" && len(words) == 3:
		return "", "", "" // postEvent asks: whom it is for is in the event
	case slices.Contains(filtered, word(0)) && (word(1) == "" || word(0) == "groups") && read:
		return config.ScopeList, "", "" // shows those that the operator may see
	case (word(0) == "devices" || word(0) == "deny") && word(1) != "":
		device = word(1)
	default:
		device = "*"
	}
	switch {
	case word(0) == "devices" && word(2) == "services":
		return config.ScopeDial, device, word(3)
	case read:
		return config.ScopeList, device, ""
	case word(0) == "devices" && word(2) == "disconnect":
		return config.ScopeManage, device, "disconnect"
	case word(0) == "deny" && r.Method == http.MethodDelete:
		return config.ScopeManage, device, "allow"
	case word(0) == "deny":
		return config.ScopeManage, device, "deny"
	}
	return config.ScopeSignal, device, r.URL.Query().Get("name")
}
