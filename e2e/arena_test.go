//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/child"
	"github.com/atls-ws/atls-ws/internal/pki"
	"github.com/atls-ws/atls-ws/wsconn"
)

// Bounds of what hostile peers may cost. They are generous: what they find is
// growth with what a peer sends, not a megabyte.
const (
	peakMemory    = 300 << 20 // of the server's resident set
	leftGoroutine = 15        // above those of before
	leftFiles     = 5
	slack         = 30 * time.Second // of a loaded machine, on each bound of the server's
)

// arena is a server, with a healthy device that is connected all the time, to
// which many peers are hostile at once.
type arena struct {
	*site
	device *child.Child
	first  listed // its session

	goroutines, files float64
	peers             atomic.Int64
}

// newArena starts the server with more configuration, and the device.
func newArena(t *testing.T, yaml string) *arena {
	t.Helper()
	a := &arena{site: newSite(t).serveWith(yaml)}
	a.device = startDevice(t, a.site, "--on", "display=true")
	a.first = a.ready()
	a.healthy(t) // what is made once is there now
	m := a.metrics(t)
	a.goroutines, a.files = m["go_goroutines"], m["process_open_fds"]
	return a
}

// all runs the cases of a table at the same time: most of them wait. go test's
// own t.Parallel would run as many as there are processors.
func all[C any](t *testing.T, cases []C, name func(C) string, run func(*testing.T, C)) {
	var wg sync.WaitGroup
	seats := make(chan struct{}, 48)
	for _, c := range cases {
		seats <- struct{}{}
		wg.Go(func() {
			defer func() { <-seats }()
			t.Run(name(c), func(t *testing.T) { run(t, c) })
		})
	}
	wg.Wait()
}

// innerTLSOf is the inner configuration of a device with a certificate of its
// own, so that it replaces nobody's session.
func (a *arena) innerTLSOf(t *testing.T, device string) *tls.Config {
	t.Helper()
	p, err := a.ca.Device(device, 0)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := p.TLS()
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{RootCAs: a.ca.Pool(), ServerName: pki.ServerName, Certificates: []tls.Certificate{cert}, NextProtos: []string{"atls-mux/1"}}
}

func (a *arena) newDevice() string { return fmt.Sprintf("peer-%d", a.peers.Add(1)) }

// healthy fails the test unless the server is there and serves a device.
func (a *arena) healthy(t *testing.T) {
	t.Helper()
	select {
	case <-a.server.Done():
		t.Fatalf("the server has ended\n%s", a.server.Tail(60))
	default:
	}
	ctx := bounded(t)
	conf := &client.Config{URL: "wss://" + a.addr + path, TLS: a.innerTLSOf(t, a.newDevice())}
	s, err := client.Dial(ctx, conf)
	for up := (*wsconn.UpgradeError)(nil); errors.As(err, &up) && up.StatusCode == http.StatusServiceUnavailable && ctx.Err() == nil; {
		pause(ctx) // a machine that is busy with other things: the device comes again
		s, err = client.Dial(ctx, conf)
	}
	if err != nil {
		t.Fatalf("a healthy device gets no session: %v", err)
	}
	defer func() { _ = s.Close() }()
	c, err := s.Dial(ctx, "http")
	if err != nil {
		t.Fatalf("a healthy device gets no service: %v", err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("a healthy device gets no answer: %v, %v", resp, err)
	}
}

// settled fails the test unless the server has peaked below the bound, everything
// of the peers has gone, and the healthy device has noticed nothing.
func (a *arena) settled(t *testing.T) {
	t.Helper()
	if peak := a.peak(t); peak > peakMemory {
		t.Errorf("the server's memory peaked at %d MiB", peak>>20)
	} else {
		t.Logf("the server's memory peaked at %d MiB", peak>>20)
	}
	var m map[string]float64
	for ctx := bounded(t); ; {
		m = a.metrics(t)
		if m["go_goroutines"] <= a.goroutines+leftGoroutine && m["process_open_fds"] <= a.files+leftFiles &&
			m["atls_half_open"] == 0 && m["atls_http_peers"] == 0 && m["sessions"] == 1 {
			break
		}
		if ctx.Err() != nil {
			t.Errorf("of the peers is left: goroutines %v (before: %v), files %v (%v), half open %v, peers of atls-http/1 %v, sessions %v (1)\n%s",
				m["go_goroutines"], a.goroutines, m["process_open_fds"], a.files, m["atls_half_open"], m["atls_http_peers"], m["sessions"],
				a.ask(t, "/debug/pprof/goroutine?debug=1"))
			break
		}
		pause(ctx)
	}
	if now := a.ready(); now.Session != a.first.Session {
		t.Errorf("the healthy device has another session than before: %+v, %+v", a.first, now)
	}
	must(t, nil, "push", "--admin", a.admin(), deviceID, "display")
}

// pause is between two looks at what has not happened yet.
func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(100 * time.Millisecond):
	}
}

// peak is the most memory that the server has had resident, in bytes.
func (a *arena) peak(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.server.PID()))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kib, err := strconv.Atoi(strings.Fields(rest + " ?")[0])
	if err != nil {
		t.Fatalf("no VmHWM in %s", status)
	}
	return kib << 10
}

// metrics are the numbers of /metrics without labels, and the sum of sessions.
func (a *arena) metrics(t *testing.T) map[string]float64 {
	t.Helper()
	m := map[string]float64{}
	for line := range strings.Lines(a.ask(t, "/metrics")) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			continue
		}
		m[name] = v
		if strings.HasPrefix(name, "atls_sessions{") {
			m["sessions"] += v
		}
	}
	return m
}

// ask gets a page of the admin socket.
func (a *arena) ask(t *testing.T, path string) string {
	t.Helper()
	c := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", a.admin())
		}}}
	resp, err := c.Get("http://admin" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var body bytes.Buffer
	if _, err := body.ReadFrom(resp.Body); err != nil {
		t.Fatal(err)
	}
	return body.String()
}
