package daemon

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/pki"
)

// dial makes a device's session without waiting for the server to know it.
func (s *site) dial(id string) (*client.Session, error) {
	pair := must[*pki.Pair](s.t)(s.ca.Device(id, 0))
	sess, err := client.Dial(s.t.Context(), &client.Config{URL: s.url, TLS: &tls.Config{
		RootCAs: s.ca.Pool(), ServerName: pki.ServerName, Certificates: []tls.Certificate{must[tls.Certificate](s.t)(pair.TLS())},
	}})
	if err == nil {
		s.t.Cleanup(func() { _ = sess.Close() })
	}
	return sess, err
}

// ended waits for the end of a session and returns why.
func ended(t *testing.T, s *client.Session) error {
	t.Helper()
	select {
	case <-s.Done():
		return s.Err()
	case <-time.After(20 * time.Second):
		t.Fatal("the session goes on")
		return nil
	}
}

func unknown(err error) bool {
	var outcome *admin.OutcomeError
	return errors.As(err, &outcome) && outcome.State == admin.Unknown
}

func TestADeviceIsToldOfConnectedOrNot(t *testing.T) {
	s := start(t, nil)
	sess := s.connect("d-1", nil)
	must[*admin.Outcome](t)(s.admin.Push(t.Context(), &admin.Push{Device: "absent", Name: "do", NoWait: true}))
	d := must[*admin.DeviceDetail](t)(s.admin.Device(t.Context(), "d-1"))
	if !d.Connected || d.Session == nil || d.Session.Session != sess.ID() || d.Software != "test" || !slices.Equal(d.Groups, []string{"both"}) || d.Counts.Sessions != 1 || time.Since(d.LastSeen) > time.Minute {
		t.Errorf("%+v", d)
	}
	_ = sess.Close()
	for end := time.Now().Add(20 * time.Second); d.Connected && time.Now().Before(end); time.Sleep(time.Millisecond) {
		d = must[*admin.DeviceDetail](t)(s.admin.Device(t.Context(), "d-1"))
	}
	if d.Connected || d.Session != nil || d.Software != "test" || d.LastSeen.IsZero() {
		t.Errorf("%+v", d)
	}
	if d = must[*admin.DeviceDetail](t)(s.admin.Device(t.Context(), "absent")); d.Connected || d.Waiting != 1 || !d.LastSeen.IsZero() || !slices.Equal(d.Groups, []string{"both"}) {
		t.Errorf("%+v", d)
	}
	if _, err := s.admin.Device(t.Context(), "nobody"); !unknown(err) {
		t.Errorf("nobody: %v", err)
	}
	if _, err := s.admin.Device(t.Context(), "no name"); err == nil || unknown(err) {
		t.Errorf("no name: %v", err)
	}
}

func TestADisconnectedDeviceIsToldAndMayComeBack(t *testing.T) {
	s := start(t, nil)
	sess := s.connect("d", nil)
	if d := must[*admin.Disconnected](t)(s.admin.Disconnect(t.Context(), "d", "new routes")); d.Sessions != 1 || d.Device != "d" {
		t.Errorf("%+v", d)
	}
	if err := ended(t, sess); !errors.Is(err, client.ErrPeerGone) || !strings.Contains(err.Error(), "new routes") {
		t.Errorf("the device hears %v", err)
	}
	s.connect("d", nil)
	var outcome *admin.OutcomeError
	if _, err := s.admin.Disconnect(t.Context(), "absent", ""); !errors.As(err, &outcome) || outcome.State != admin.NotConnected {
		t.Errorf("absent: %v", err)
	}
	if _, err := s.admin.Disconnect(t.Context(), "d", strings.Repeat("x", admin.MaxReason+1)); !errors.As(err, &outcome) || outcome.State != admin.Failed {
		t.Errorf("too long: %v", err)
	}
}

func TestADeniedDeviceIsCutOffAndStaysOut(t *testing.T) {
	s := start(t, nil)
	sess, other := s.connect("d", nil), s.connect("other", nil)
	d := must[*admin.Denial](t)(s.admin.Deny(t.Context(), "d", "stolen"))
	if d.Reason != "stolen" || d.By != "local" || d.Since.IsZero() {
		t.Errorf("%+v", d)
	}
	refused := (*client.RefusedError)(nil)
	if err := ended(t, sess); !errors.As(err, &refused) || refused.Code != client.NotAllowed || strings.Contains(err.Error(), "stolen") {
		t.Errorf("the device hears %v", err)
	}
	if _, err := s.dial("d"); !errors.As(err, &refused) || refused.Code != client.NotAllowed {
		t.Errorf("it comes back: %v", err)
	}
	if other.Err() != nil {
		t.Errorf("another device: %v", other.Err())
	}
	if all := must[[]admin.Denial](t)(s.admin.Denials(t.Context())); len(all) != 1 || all[0] != *d {
		t.Errorf("%+v", all)
	}
	if about := must[*admin.DeviceDetail](t)(s.admin.Device(t.Context(), "d")); about.Denied == nil || *about.Denied != *d {
		t.Errorf("%+v", about)
	}
	// A restart does not let it in.
	_ = other.Close()
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	s.again()
	if _, err := s.dial("d"); !errors.As(err, &refused) {
		t.Errorf("after a restart: %v", err)
	}
	must[*admin.Denial](t)(s.admin.Allow(t.Context(), "d"))
	s.connect("d", nil)
	if _, err := s.admin.Allow(t.Context(), "d"); !unknown(err) {
		t.Errorf("allowed twice: %v", err)
	}
}

func TestTheConfigurationDenies(t *testing.T) {
	s := startWith(t, func(cfg *config.Server, _ string) {
		cfg.Deny = []string{"old-*", "@scrapped"}
		cfg.Groups["scrapped"] = config.Group{Devices: []string{"x"}}
	})
	refused := (*client.RefusedError)(nil)
	for _, id := range []string{"old-1", "x"} {
		if _, err := s.dial(id); !errors.As(err, &refused) || refused.Code != client.NotAllowed {
			t.Errorf("%s: %v", id, err)
		}
	}
	s.connect("d", nil)
	if all := must[[]admin.Denial](t)(s.admin.Denials(t.Context())); len(all) != 2 || all[0].Device != "old-*" || all[0].Rule != "deny[0]" {
		t.Errorf("%+v", all)
	}
	var outcome *admin.OutcomeError
	if _, err := s.admin.Allow(t.Context(), "old-1"); !errors.As(err, &outcome) || outcome.Next == "" {
		t.Errorf("allow: %v", err)
	}
}

func TestGroupsAreListedWithTheirMembers(t *testing.T) {
	s := start(t, nil)
	s.connect("d-1", nil)
	all := must[[]admin.Group](t)(s.admin.Groups(t.Context()))
	if len(all) != 1 || all[0].Name != "both" || all[0].Count != 2 || all[0].Connected != 1 || !slices.Equal(all[0].Devices, []string{"d-*", "absent"}) || all[0].OU == nil {
		t.Errorf("%+v", all)
	}
	g := must[*admin.GroupDetail](t)(s.admin.Group(t.Context(), "both"))
	if !slices.Equal(g.Members, []admin.Member{{Device: "absent"}, {Device: "d-1", Connected: true}}) {
		t.Errorf("%+v", g)
	}
	if _, err := s.admin.Group(t.Context(), "nosuch"); !unknown(err) {
		t.Errorf("%v", err)
	}
}

func TestEveryRouteIsHeldToTheRules(t *testing.T) {
	for request, want := range map[string][3]string{
		"GET /v1/devices":                      {"list", "", ""},
		"GET /v1/devices/a":                    {"list", "a", ""},
		"POST /v1/devices/a/disconnect":        {"manage", "a", "disconnect"},
		"PUT /v1/deny/a%2Fb":                   {"manage", "a/b", "deny"},
		"DELETE /v1/deny/a":                    {"manage", "a", "allow"},
		"GET /v1/deny":                         {"list", "", ""},
		"GET /v1/groups/g":                     {"list", "", ""},
		"POST /v1/devices/a/signals?name=x":    {"signal", "a", "x"},
		"POST /v1/signals?name=x&all=true":     {"signal", "*", "x"},
		"DELETE /v1/signals/00":                {"signal", "*", ""},
		"POST /v1/devices/a/services/web":      {"dial", "a", "web"},
		"POST /v1/something/that/nobody/knows": {"signal", "*", ""},
	} {
		method, target, _ := strings.Cut(request, " ")
		r := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), method, "http://admin"+target, http.NoBody))
		if scope, device, what := classify(r); [3]string{scope, device, what} != want {
			t.Errorf("%s: %s %s %s, want %s", request, scope, device, what, want)
		}
	}
}

// raw makes a request of the admin API without the client.
func (s *site) raw(method, path string, h http.Header, body string) (*http.Response, string) {
	s.t.Helper()
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", s.cfg.Admin)
	}}
	req := must[*http.Request](s.t)(http.NewRequestWithContext(s.t.Context(), method, "http://admin"+path, strings.NewReader(body)))
	for k, v := range h {
		req.Header[http.CanonicalHeaderKey(k)] = v
	}
	resp := must[*http.Response](s.t)(tr.RoundTrip(req))
	defer func() { _ = resp.Body.Close() }()
	return resp, string(must[[]byte](s.t)(io.ReadAll(resp.Body)))
}

func TestNoListIsNull(t *testing.T) {
	s := start(t, nil)
	s.connect("d-1", nil) // without services
	for _, path := range []string{"devices", "devices/d-1", "devices/absent", "devices/absent/signals", "signals", "groups", "groups/both", "deny"} {
		resp, body := s.raw(http.MethodGet, "/v1/"+path, nil, "")
		if resp.StatusCode != http.StatusOK || strings.Contains(body, "null") || !json.Valid([]byte(body)) {
			t.Errorf("%s: %s %s", path, resp.Status, body)
		}
	}
}

func TestAnOperatorWithoutManageDeniesNobody(t *testing.T) {
	s := startWith(t, func(cfg *config.Server, _ string) {
		cfg.Authorization.Operators = []config.OperatorRule{{Who: []string{"local"}, May: []string{"list", "signal"}, Devices: []string{"*"}}}
	})
	var outcome *admin.OutcomeError
	if _, err := s.admin.Deny(t.Context(), "d", ""); !errors.As(err, &outcome) || outcome.State != admin.Refused {
		t.Errorf("deny: %v", err)
	}
	if _, err := s.admin.Disconnect(t.Context(), "d", ""); !errors.As(err, &outcome) || outcome.State != admin.Refused {
		t.Errorf("disconnect: %v", err)
	}
}
