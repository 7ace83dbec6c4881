package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/pki"
)

// atAdmin asks at the admin socket.
func (s *site) atAdmin(path string) (status int, body string) {
	s.t.Helper()
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", s.cfg.Admin)
	}}
	resp, err := (&http.Client{Transport: tr, Timeout: 20 * time.Second}).Get("http://admin" + path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	return resp.StatusCode, string(must[[]byte](s.t)(io.ReadAll(resp.Body)))
}

func TestMetricsSayWhatHappened(t *testing.T) {
	s := startWith(t, func(cfg *config.Server, dir string) {
		writeCRL(t, dir)
		cfg.Inner.CRL = []string{pki.CRLPath(dir)}
		cfg.Limits.Dials = 7
	})
	mux := new(client.Mux)
	mux.OnSignal("yes", func(context.Context, client.Signal) (string, error) { return "", nil })
	s.connect("d-1", mux)
	if o, err := s.admin.Push(t.Context(), &admin.Push{Device: "d-1", Name: "yes", Timeout: time.Minute}); err != nil || o.State != "acked" {
		t.Fatal(o, err)
	}
	_, _ = s.admin.Push(t.Context(), &admin.Push{Device: "absent", Name: "yes", Timeout: time.Minute})
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	resp := must[*http.Response](t)(http.Get(s.url + s.cfg.Path)) // not an upgrade
	_ = resp.Body.Close()

	status, body := s.atAdmin("/metrics")
	if status != http.StatusOK {
		t.Fatal(status, body)
	}
	for _, want := range []string{
		`atls_sessions{carrier="websocket",outer="unknown"} 1`,
		`atls_sessions_total{carrier="websocket",outer="unknown"} 1`,
		`atls_handshakes_total{outcome="ready"} 1`,
		`atls_handshakes_total{outcome="no_carrier"} 1`,
		`atls_signals_total{state="queued"} 2`,
		`atls_signals_total{state="acked"} 1`,
		`atls_signal_seconds_count{state="acked"} 1`,
		`atls_queue_signals 1`,
		`atls_store_up 1`,
		`atls_signals_taken 1`,
		`atls_ready 1`,
		`atls_limit{limit="dials"} 7`,
		`atls_limit_reached_total{limit="half_open"} 0`,
		`atls_decisions_total{action="signal",allowed="true"} 2`,
		`atls_certificate_end_timestamp_seconds{file="` + s.cfg.Inner.Cert,
		`what="inner.crl"`,
		`atls_half_open 0`,
		`atls_streams{opened_by="device"}`,
		`atls_service_bytes_total{direction="to_device"} 0`,
		`atls_reload_ok 1`,
		`go_goroutines`, `process_open_fds`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	if t.Failed() {
		t.Log(body)
	}
}

func TestHealthMeansSomething(t *testing.T) {
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	s := startWith(t, func(cfg *config.Server, _ string) { cfg.Metrics, cfg.Limits.Sessions = "127.0.0.1:0", 1 })
	for _, path := range []string{"/healthz", "/readyz", "/debug/pprof/goroutine?debug=1"} {
		if status, body := s.atAdmin(path); status != http.StatusOK {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	watch := "http://" + s.log.match(t, `msg=metrics addr=(\S+)`)
	s.connect("d-1", nil)
	resp := must[*http.Response](t)(http.Get(watch + "/readyz"))
	var h admin.Health
	if err := json.NewDecoder(resp.Body).Decode(&h); err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable || h.Status != admin.HealthFailed || !strings.Contains(string(must[[]byte](t)(json.Marshal(h))), "raise limits.sessions") {
		t.Errorf("a full server is ready: %d %+v", resp.StatusCode, h)
	}
	if status, _ := s.atAdmin("/healthz"); status != http.StatusOK {
		t.Error("a full server is ill")
	}
	resp = must[*http.Response](t)(http.Get(watch + "/debug/pprof/"))
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("pprof is at the metrics address: %d", resp.StatusCode)
	}
}

func TestEndsAreWarnedOfWeeksAhead(t *testing.T) {
	s := startWith(t, func(cfg *config.Server, dir string) {
		ca := must[*pki.CA](t)(pki.LoadCA(dir))
		pair := must[*pki.Pair](t)(ca.Server(nil, 20*24*time.Hour))
		if err := pair.Write(dir, pki.ServerFile, true); err != nil {
			t.Fatal(err)
		}
	})
	s.log.match(t, `msg="certificate expires soon" what=inner.cert file=\S*server.pem .*in="(19|20) days" next=`)
	crl := config.Expiry{What: "inner.crl", CRL: true, End: time.Now().Add(-time.Hour)}
	if got := expiring(crl, time.Now()); !strings.HasPrefix(got, "CRL is out of date") {
		t.Errorf("of an old CRL: %q", got)
	}
}

func TestServiceManagerIsTold(t *testing.T) {
	path := filepath.Join(shortDir(t), "notify")
	l := must[net.PacketConn](t)(net.ListenPacket("unixgram", path))
	defer func() { _ = l.Close() }()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "50000")
	s := start(t, nil)
	told := func(want string) {
		t.Helper()
		b := make([]byte, 512)
		_ = l.SetReadDeadline(time.Now().Add(20 * time.Second))
		for {
			n, _, err := l.ReadFrom(b)
			if err != nil {
				t.Fatalf("no %s: %v", want, err)
			}
			if bytes.Contains(b[:n], []byte(want)) {
				return
			}
		}
	}
	told("READY=1")
	told("WATCHDOG=1")
	done := make(chan error, 1)
	go func() { done <- s.stop() }()
	told("STOPPING=1")
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(s.cfg.Admin); err == nil {
		t.Error("the admin socket is left")
	}
}
