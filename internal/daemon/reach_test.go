package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
)

// lines is a log that a test reads while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// match waits for the log to have what the expression finds.
func (l *lines) match(t *testing.T, expression string) string {
	t.Helper()
	re := regexp.MustCompile(expression)
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		l.mu.Lock()
		m := re.FindStringSubmatch(l.b.String())
		l.mu.Unlock()
		if m != nil {
			return m[len(m)-1]
		}
	}
	t.Fatalf("the log does not say %s", expression)
	return ""
}

// upper listens on a service of mux and answers in upper case.
func upper(t *testing.T, mux *client.Mux, name string) {
	t.Helper()
	l := must[net.Listener](t)(mux.Listen(name))
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				b, _ := io.ReadAll(c)
				_, _ = c.Write(bytes.ToUpper(b))
				_ = c.Close()
			}()
		}
	}()
}

// say sends text to the end and returns all that comes back.
func say(t *testing.T, c net.Conn, text string) string {
	t.Helper()
	_, _ = io.WriteString(c, text)
	_ = c.(interface{ CloseWrite() error }).CloseWrite()
	got, err := io.ReadAll(c)
	if err != nil {
		t.Error(err)
	}
	_ = c.Close()
	return string(got)
}

func TestDialWaitsForTheDevice(t *testing.T) {
	s := start(t, nil)
	var outcome *admin.OutcomeError
	if _, err := s.admin.DialWait(t.Context(), "d", "up", 20*time.Millisecond); !errors.As(err, &outcome) || outcome.State != admin.NotConnected || !strings.Contains(outcome.Text, "within 20ms") {
		t.Errorf("a device that does not come: %v", err)
	}
	got := make(chan string, 1)
	go func() {
		c, err := s.admin.DialWait(t.Context(), "d", "up", time.Minute)
		if err != nil {
			got <- err.Error()
			return
		}
		got <- say(t, c, "hello")
	}()
	s.log.match(t, `msg="wake queued" device=d service=up .* wait=1m0s`)
	woken := make(chan string, 4)
	mux := new(client.Mux)
	mux.OnSignal(config.SignalWake, func(_ context.Context, sig client.Signal) (string, error) {
		woken <- string(sig.Data)
		return "awake", nil
	})
	upper(t, mux, "up")
	s.connect("d", mux)
	if text := <-got; text != "HELLO" {
		t.Error(text)
	}
	if service := <-woken; service != "up" {
		t.Errorf("woken for %q", service)
	}
}

func TestListenerLeadsToADevice(t *testing.T) {
	s := startWith(t, func(cfg *config.Server, _ string) {
		cfg.Listeners = []config.Listener{{Listen: "127.0.0.1:0", Device: "d", Service: "up"}}
	})
	addr := s.log.match(t, `listener leads to a device.* addr=(\S+)`)
	mux := new(client.Mux)
	upper(t, mux, "up")
	s.connect("d", mux)
	if got := say(t, must[net.Conn](t)(net.Dial("tcp", addr)), "hello"); got != "HELLO" {
		t.Errorf("%q", got)
	}
	s.log.match(t, `msg=decision who="listener 127.0.0.1:0" action=dial device=d target=up .*allowed=true rule=listeners`)
}

func TestConnectionsToADeviceAreCounted(t *testing.T) {
	s := startWith(t, func(cfg *config.Server, _ string) { cfg.Limits.Dials = 1 })
	mux := new(client.Mux)
	upper(t, mux, "up")
	s.connect("d", mux)
	c := must[*admin.Conn](t)(s.admin.Dial(t.Context(), "d", "up"))
	var outcome *admin.OutcomeError
	if _, err := s.admin.Dial(t.Context(), "d", "up"); !errors.As(err, &outcome) || outcome.Code != "busy" {
		t.Errorf("a second connection: %v", err)
	}
	if got := say(t, c, "a"); got != "A" {
		t.Errorf("%q", got)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) { // the daemon sees the end a moment later
		again, err := s.admin.Dial(t.Context(), "d", "up")
		if err == nil {
			_ = again.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func TestRulesDecideWhatADeviceReaches(t *testing.T) {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "%s asks %s", r.Header.Get("X-Device-Id"), r.URL.Path)
		if !strings.HasPrefix(r.Header.Get("Client-Cert"), ":MII") {
			t.Errorf("Client-Cert %q", r.Header.Get("Client-Cert"))
		}
	}))
	defer origin.Close()
	s := startWith(t, func(cfg *config.Server, dir string) {
		cfg.Services = config.Services{"up": "exec:cat", "other": "exec:cat"}
		cfg.AllowExec = true
		cfg.Routes = []config.Route{{Path: "/api", To: origin.URL}, {Path: "/api/admin/", To: origin.URL}, {Host: "special", To: origin.URL + "/s"}}
		cfg.Authorization.Devices = []config.DeviceRule{{Who: []string{"pump-*"}, Services: []string{"up"}, Routes: []string{"/api", "special"}}}
		cfg.Audit = filepath.Join(dir, "audit")
	})
	sess := s.connect("pump-7", nil)
	c := must[net.Conn](t)(sess.Dial(t.Context(), "up"))
	if got := say(t, c, "x"); got != "x" {
		t.Errorf("%q", got)
	}
	for _, service := range []string{"other", "absent"} {
		var refused *client.RefusedError
		if _, err := sess.Dial(t.Context(), service); !errors.As(err, &refused) || refused.Code != client.NotAllowed || !strings.Contains(refused.Text, "rules do not let") {
			t.Errorf("%s: %v", service, err)
		}
	}
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return sess.Dial(ctx, "http") }}
	defer tr.CloseIdleConnections()
	for _, tc := range []struct{ url, want string }{
		{"http://x/api/v1", "200 pump-7 asks /api/v1"},
		{"http://x/api", "200 pump-7 asks /api"},
		{"http://SPECIAL:80/y", "200 pump-7 asks /s/y"},
		{"http://x/api/admin/z", "403 the server's rules do not let this device reach the route /api/admin/"},
		{"http://x/api/%2e%2e/admin", "400 a path with . or .. is not taken"},
		{"http://x/api/..%2fadmin", "400 a path with . or .. is not taken"},
		{"http://x/apis", "404 404 page not found"},
	} {
		resp, err := (&http.Client{Transport: tr}).Get(tc.url)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if got := fmt.Sprint(resp.StatusCode, " ", strings.TrimSpace(string(body))); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.url, got, tc.want)
		}
	}
	log := string(must[[]byte](t)(os.ReadFile(s.cfg.Audit)))
	for _, want := range []string{
		`"who":"device:pump-7","action":"service","device":"pump-7","target":"other","allowed":false,"rule":"no rule of authorization.devices allows it"`,
		`"action":"route","device":"pump-7","target":"/api","allowed":true,"rule":"authorization.devices[0]"`,
	} {
		if !strings.Contains(log, want) {
			t.Errorf("%s is not in the audit log:\n%s", want, log)
		}
	}
}

func TestRulesDecideWhatAnOperatorMay(t *testing.T) {
	s := startWith(t, func(cfg *config.Server, _ string) {
		cfg.Authorization.Operators = []config.OperatorRule{
			{Who: []string{"local"}, May: []string{"dial", "list"}, Devices: []string{"d"}, Services: []string{"up"}},
		}
	})
	mux := new(client.Mux)
	upper(t, mux, "up")
	// connect asks for the list of devices, which has d alone.
	s.connect("d", mux)
	if got := say(t, must[*admin.Conn](t)(s.admin.Dial(t.Context(), "d", "up")), "x"); got != "X" {
		t.Errorf("%q", got)
	}
	var outcome *admin.OutcomeError
	for _, to := range [][2]string{{"d", "ssh"}, {"e", "up"}} {
		if _, err := s.admin.Dial(t.Context(), to[0], to[1]); !errors.As(err, &outcome) || outcome.Code != "not allowed" || !strings.Contains(outcome.Text, "do not let local dial "+to[1]) {
			t.Errorf("%v: %v", to, err)
		}
	}
	if _, err := s.admin.Push(t.Context(), &admin.Push{Device: "d", Name: "reboot", Timeout: time.Minute}); !errors.As(err, &outcome) || outcome.Code != "not allowed" {
		t.Errorf("signal: %v", err)
	}
}

func TestClassify(t *testing.T) {
	for request, want := range map[string]string{
		"GET /v1/devices":                        "list  ",
		"GET /v1/devices/a%2Fb":                  "list a/b ",
		"POST /v1/devices/d/signals?name=x":      "signal d x",
		"POST /v1/devices/d/services/ssh?wait=1": "dial d ssh",
		"POST /v1/devices/d/services/a%2Fb":      "dial d a/b",
		"GET /v1/devices/d/services/ssh":         "dial d ssh",
		"GET /%761/devices/d/services/ssh":       "dial d ssh",
		"GET /v1/signals":                        "list * ",
		"GET /v1/signals/0123":                   "list * ",
		"GET /v1/devices/d/signals":              "list d ",
		"GET /":                                  "list * ",
		"POST /v1/devices":                       "signal * ",
		"POST /v1/streams/7":                     "signal * ",
		"GET /v1/streams/7":                      "  ",
		"POST /v1/signals?name=x":                "signal * x",
		"DELETE /v1/devices/d/queue":             "signal d ",
		"POST /":                                 "signal * ",
	} {
		method, target, _ := strings.Cut(request, " ")
		scope, device, name := classify(httptest.NewRequest(method, target, nil))
		if got := scope + " " + device + " " + name; got != want {
			t.Errorf("%s: %q, want %q", request, got, want)
		}
	}
}
