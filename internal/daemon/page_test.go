package daemon

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
)

// browser is an HTTP client of the admin socket, as through ssh -L.
func (s *site) browser() *http.Client {
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", s.cfg.Admin)
	}}
	s.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func page(t *testing.T, resp *http.Response, err error) (status int, body string) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	return resp.StatusCode, string(must[[]byte](t)(io.ReadAll(resp.Body)))
}

var tokenField = regexp.MustCompile(`name="token" value="([0-9a-f]+)"`)

func TestFleetPageShowsAndPushes(t *testing.T) {
	s := start(t, nil)
	mux := new(client.Mux)
	mux.OnSignal("greet", func(_ context.Context, sig client.Signal) (string, error) {
		return "<b>" + string(sig.Data) + "</b>", nil
	})
	s.connect("pump-7", mux)
	if _, err := s.admin.Push(t.Context(), &admin.Push{Device: "absent", Name: "later", Timeout: time.Minute}); err != nil {
		t.Fatal(err)
	}
	b := s.browser()
	resp, err := b.Get("http://localhost:8500/")
	if csp := resp.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "script") {
		t.Errorf("policy %q", csp)
	}
	status, body := page(t, resp, err)
	for _, want := range []string{`<dd id="connected">1</dd>`, `<dd id="waiting">1</dd>`, `<a href="/devices/pump-7">pump-7</a>`, `<a href="/devices/absent">absent</a>`} {
		if status != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%d, the page lacks %s", status, want)
		}
	}
	if strings.Contains(body, "<script") {
		t.Error("there is a script in the page")
	}
	token := tokenField.FindStringSubmatch(body)[1]
	form := url.Values{"token": {token}, "to": {"device"}, "target": {"pump-7"}, "name": {"greet"}, "data": {"hello"}}
	resp, err = b.PostForm("http://localhost:8500/push", form)
	status, body = page(t, resp, err)
	if status != http.StatusOK || !strings.Contains(body, `<td class="state acked">acked</td>`) || !strings.Contains(body, "&lt;b&gt;hello&lt;/b&gt;") || strings.Contains(body, `http-equiv="refresh"`) {
		t.Errorf("after the push: %d\n%s", status, body)
	}
	resp, err = b.Get("http://localhost:8500/devices/absent")
	if status, body = page(t, resp, err); status != http.StatusOK || !strings.Contains(body, "It is not connected") || !strings.Contains(body, ">later</a>") {
		t.Errorf("%d\n%s", status, body)
	}

	for name, tc := range map[string]struct {
		status int
		want   string
		change func(form url.Values, r *http.Request)
	}{
		"another site":       {403, "from another site", func(_ url.Values, r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }},
		"another origin":     {403, "from another site", func(_ url.Values, r *http.Request) { r.Header.Set("Origin", "https://evil.example") }},
		"no token":           {403, "another operator", func(f url.Values, _ *http.Request) { f.Del("token") }},
		"another host":       {421, "open the page as", func(_ url.Values, r *http.Request) { r.Host = "rebound.example" }},
		"nobody":             {400, "not said to whom", func(f url.Values, _ *http.Request) { f.Del("target") }},
		"no duration":        {400, "is not a duration", func(f url.Values, _ *http.Request) { f.Set("ttl", "soon") }},
		"no such group":      {400, "no group", func(f url.Values, _ *http.Request) { f.Set("to", "group"); f.Set("target", "nosuch") }},
		"no name":            {400, "name", func(f url.Values, _ *http.Request) { f.Del("name") }},
		"more than may be":   {400, "", func(f url.Values, _ *http.Request) { f.Set("data", strings.Repeat("x", 4*admin.MaxData)) }},
		"too much of a data": {400, "", func(f url.Values, _ *http.Request) { f.Set("data", strings.Repeat("x", admin.MaxData+1)) }},
	} {
		f := url.Values{}
		for k, v := range form {
			f[k] = v
		}
		r := must[*http.Request](t)(http.NewRequest(http.MethodPost, "http://localhost:8500/push", nil))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		tc.change(f, r)
		r.Body = io.NopCloser(strings.NewReader(f.Encode()))
		resp, err := b.Do(r)
		if status, body := page(t, resp, err); status != tc.status || !strings.Contains(body, tc.want) {
			t.Errorf("%s: %d, want %d\n%s", name, status, tc.status, body)
		}
	}
	if waiting := must[[]admin.Signal](t)(s.admin.Signals(t.Context(), 50)); len(waiting) != 2 {
		t.Errorf("%d signals were sent, want 2", len(waiting))
	}
}

// Who has brought the admin socket to a port of his machine has other pages in
// the same browser.
func TestPagesOfOtherSitesCannotUseTheAdminSocket(t *testing.T) {
	s := start(t, nil)
	b := s.browser()
	for name, tc := range map[string]struct {
		method, url string
		header      [2]string
		want        int
	}{
		"a form of another site":  {"POST", "http://localhost:8500/v1/devices/pump-7/signals?name=reboot", [2]string{"Sec-Fetch-Site", "cross-site"}, 403},
		"an older browser":        {"POST", "http://localhost:8500/v1/devices/pump-7/signals?name=reboot", [2]string{"Origin", "https://evil.example"}, 403},
		"denying a device":        {"PUT", "http://localhost:8500/v1/deny/pump-7", [2]string{"Origin", "https://evil.example"}, 403},
		"a name that leads here":  {"GET", "http://rebound.example:8500/v1/devices", [2]string{}, 421},
		"the backup by such one":  {"GET", "http://rebound.example:8500" + admin.BackupPath, [2]string{}, 421},
		"memory by such one":      {"GET", "http://rebound.example:8500/debug/pprof/heap", [2]string{}, 421},
		"a signal by such one":    {"POST", "http://rebound.example:8500/v1/devices/pump-7/signals?name=reboot", [2]string{}, 421},
		"the owner's own request": {"GET", "http://localhost:8500/v1/devices", [2]string{}, 200},
		"an operator's command":   {"GET", "http://admin/v1/devices", [2]string{}, 200},
	} {
		r := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), tc.method, tc.url, http.NoBody))
		if tc.header[0] != "" {
			r.Header.Set(tc.header[0], tc.header[1])
		}
		resp, err := b.Do(r)
		if status, body := page(t, resp, err); status != tc.want {
			t.Errorf("%s: %d, want %d: %s", name, status, tc.want, body)
		}
	}
	if sent := must[[]admin.Signal](t)(s.admin.Signals(t.Context(), 50)); len(sent) != 0 {
		t.Errorf("%d signals were sent", len(sent))
	}
}
