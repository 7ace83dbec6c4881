package fleet

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/child"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/leak"
	"github.com/atls-ws/atls-ws/internal/pki"
	"github.com/atls-ws/atls-ws/server"
)

func TestMain(m *testing.M) { leak.Main(m, func() { _ = os.RemoveAll(natsDir) }) }

var natsDir string // of the server's binary

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// natsd is a NATS server of its own: another process.
type natsd struct {
	t    testing.TB
	dir  string
	url  string
	off  bool   // no JetStream
	tls  string // of its configuration; empty: none
	ca   string // file
	proc *child.Child
}

var buildNATS = sync.OnceValues(func() (string, error) {
	var err error
	if natsDir, err = os.MkdirTemp("", "natsd-"); err != nil {
		return "", err
	}
	exe := filepath.Join(natsDir, "nats-server")
	if out, err := exec.Command("go", "build", "-o", exe, "github.com/nats-io/nats-server/v2").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return exe, nil
})

func startNATS(t testing.TB) *natsd {
	t.Helper()
	return (&natsd{t: t, dir: t.TempDir()}).anywhere()
}

// anywhere starts it on a port that is free.
func (n *natsd) anywhere() *natsd {
	n.t.Helper()
	n.start("127.0.0.1:-1")
	var said struct{ NATS []string }
	for len(said.NATS) == 0 { // the file is there before its text
		if ports, _ := filepath.Glob(filepath.Join(n.dir, "*.ports")); len(ports) > 0 {
			data, _ := os.ReadFile(ports[0])
			_ = json.Unmarshal(data, &said)
		}
		time.Sleep(5 * time.Millisecond)
	}
	n.url = said.NATS[0]
	return n
}

func (n *natsd) start(listen string) {
	n.t.Helper()
	exe := must[string](n.t)(buildNATS())
	conf := filepath.Join(n.dir, "nats.conf")
	text := fmt.Sprintf("listen: %q\nports_file_dir: %q\n", listen, n.dir) + n.tls
	if !n.off {
		text += fmt.Sprintf("jetstream { store_dir: %q, sync_interval: always }\n", filepath.Join(n.dir, "js"))
	}
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		n.t.Fatal(err)
	}
	n.proc = must[*child.Child](n.t)(child.Start("nats-server", exec.Command(exe, "-c", conf)))
	n.t.Cleanup(func() { n.proc.Stop(5 * time.Second) })
	must[string](n.t)(n.proc.Await(n.t.Context(), "Server is ready"))
}

func (n *natsd) kill() {
	n.t.Helper()
	_ = must[*os.Process](n.t)(os.FindProcess(n.proc.PID())).Kill()
	<-n.proc.Done()
}

func (n *natsd) restart() { n.start(strings.TrimPrefix(n.url, "nats://")) }

// site is a fleet behind a server.
type site struct {
	t   testing.TB
	ca  *pki.CA
	cfg Config
	nd  *natsd
	f   *Fleet
	srv *server.Server
	web *httptest.Server
}

// everywhere runs a test with NATS embedded and with NATS elsewhere.
func everywhere(t *testing.T, test func(t *testing.T, s *site)) {
	t.Run("embedded", func(t *testing.T) { test(t, newSite(t, false)) })
	t.Run("external", func(t *testing.T) { test(t, newSite(t, true)) })
}

func newSite(t testing.TB, external bool) *site {
	s := &site{t: t, ca: must[*pki.CA](t)(pki.NewCA("CA")), cfg: Config{Logger: slog.New(slog.DiscardHandler)}}
	if testing.Verbose() {
		s.cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
	}
	if external {
		s.nd = startNATS(t)
		s.cfg.NATS.URL = s.nd.url
	} else {
		s.cfg.Dir = filepath.Join(t.TempDir(), "data")
	}
	return s
}

// start opens the fleet; stop is a restart's first half.
func (s *site) start() *site {
	s.t.Helper()
	s.f = must[*Fleet](s.t)(Open(s.t.Context(), s.cfg))
	pair := must[*pki.Pair](s.t)(s.ca.Server(nil, 0))
	mux := new(server.Mux)
	mux.OnSignal(server.AnySignal, s.f.FromDevice)
	s.srv = must[*server.Server](s.t)(server.New(&server.Config{
		TLS: &tls.Config{Certificates: []tls.Certificate{must[tls.Certificate](s.t)(pair.TLS())}, ClientCAs: s.ca.Pool()},
		Mux: mux, Queue: s.f.Queue(), Hooks: server.Hooks{Connected: s.f.Connected, Disconnected: func(sess *server.Session, _ error) { s.f.Disconnected(sess) }},
	}))
	s.f.Serve(s.srv.Registry())
	s.web = httptest.NewServer(s.srv)
	srv, web, f := s.srv, s.web, s.f
	s.t.Cleanup(func() { _ = srv.Close(); web.Close(); _ = f.Close() })
	return s
}

func (s *site) stop() {
	_ = s.srv.Close()
	s.web.Close()
	_ = s.f.Close()
}

// device is a real session; its position and what it applied outlive it.
type device struct {
	id      string
	cfg     *client.Config
	applied *client.Applied

	mu   sync.Mutex
	got  []string // data of the signals, in order
	sess *client.Session
}

func (s *site) device(id string) *device {
	d := &device{id: id, applied: client.NewApplied(client.Position{}, nil)}
	pair := must[*pki.Pair](s.t)(s.ca.Device(id, 0))
	d.cfg = &client.Config{
		TLS:   &tls.Config{RootCAs: s.ca.Pool(), ServerName: pki.ServerName, Certificates: []tls.Certificate{must[tls.Certificate](s.t)(pair.TLS())}},
		Proxy: func(*http.Request) (*url.URL, error) { return nil, nil },
		Mux:   new(client.Mux), Applied: d.applied,
	}
	d.cfg.Mux.OnSignal(client.AnySignal, func(_ context.Context, sig client.Signal) (string, error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.got = append(d.got, string(sig.Data))
		return "did " + string(sig.Data), nil
	})
	return d
}

func (s *site) connect(d *device) {
	s.t.Helper()
	d.cfg.URL = s.web.URL
	d.sess = must[*client.Session](s.t)(client.Dial(s.t.Context(), d.cfg))
	sess := d.sess
	s.t.Cleanup(func() { _ = sess.Close() })
	eventually(s.t, func() bool { return s.f.Online(d.id) })
}

func (s *site) disconnect(d *device) {
	s.t.Helper()
	_ = d.sess.Close()
	eventually(s.t, func() bool { return !s.f.Online(d.id) })
}

func (d *device) seen() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]string(nil), d.got...)
}

func eventually(t testing.TB, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("did not happen")
		}
	}
}

// send queues and returns the id with what was said of each device.
func (s *site) send(r *Request) (id string, said map[string]admin.Outcome) {
	s.t.Helper()
	said = map[string]admin.Outcome{}
	id = must[string](s.t)(s.f.Send(s.t.Context(), r, func(o admin.Outcome) { said[o.Device] = o }))
	return id, said
}

func (s *site) to(device, data string) string {
	s.t.Helper()
	id, said := s.send(&Request{Target: Target{Device: device}, Name: "do", Data: []byte(data)})
	if said[device].State != admin.Queued {
		s.t.Fatalf("%+v", said)
	}
	return id
}

// outcome is what Show says of the one device of a signal.
func (s *site) outcome(id string) admin.Outcome {
	s.t.Helper()
	return must[*admin.Signal](s.t)(s.f.Show(s.t.Context(), id)).Outcomes[0]
}
