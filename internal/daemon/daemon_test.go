package daemon

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/leak"
	"github.com/atls-ws/atls-ws/internal/pki"
)

func TestMain(m *testing.M) { leak.Main(m) }

// shortDir is a folder whose name leaves room for a unix socket.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "atls-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// site is a running daemon.
type site struct {
	options func(*Options)
	t       *testing.T
	ca      *pki.CA
	cfg     *config.Server
	url     string
	admin   *admin.Client
	log     lines
	stop    func() error // ends it and returns what Run did
}

func start(t *testing.T, services map[string]string) *site {
	t.Helper()
	return startWith(t, func(cfg *config.Server, _ string) { cfg.Services = services })
}

// startWith lets prepare complete the configuration, whose files are in dir.
func startWith(t *testing.T, prepare func(cfg *config.Server, dir string)) *site {
	t.Helper()
	return startOptions(t, prepare, func(*Options) {})
}

func startOptions(t *testing.T, prepare func(cfg *config.Server, dir string), options func(*Options)) *site {
	t.Helper()
	return startTrusting(t, must[*pki.CA](t)(pki.NewCA("CA")), prepare, options)
}

// startTrusting is startOptions with devices of ca.
func startTrusting(t *testing.T, ca *pki.CA, prepare func(cfg *config.Server, dir string), options func(*Options)) *site {
	t.Helper()
	s := &site{t: t, ca: ca, options: options}
	dir := shortDir(t)
	pair := must[*pki.Pair](t)(s.ca.Server(nil, 0))
	if err := errors.Join(s.ca.Write(dir, false), pair.Write(dir, pki.ServerFile, false)); err != nil {
		t.Fatal(err)
	}
	s.cfg = config.DefaultServer()
	s.cfg.Listen, s.cfg.Admin = "127.0.0.1:0", filepath.Join(dir, "admin.sock")
	s.cfg.Data, s.cfg.Groups = filepath.Join(dir, "data"), config.Groups{"both": {Devices: []string{"d-*", "absent"}}}
	s.cfg.Inner = config.ServerInner{
		Cert: pki.CertPath(dir, pki.ServerFile), Key: pki.KeyPath(dir, pki.ServerFile), ClientCA: pki.CertPath(dir, pki.CAFile),
	}
	prepare(s.cfg, dir)
	s.again()
	t.Cleanup(func() { _ = s.stop() })
	return s
}

// again starts a daemon that has been stopped.
func (s *site) again() {
	t := s.t
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan net.Addr, 1), make(chan error, 1)
	o := Options{Logger: slog.New(slog.NewTextHandler(&s.log, nil)), Ready: func(a net.Addr, _ string) { ready <- a }}
	s.options(&o)
	go func() { ended <- Run(ctx, s.cfg, o) }()
	select {
	case a := <-ready:
		s.url = "http://" + a.String()
	case err := <-ended:
		t.Fatal(err)
	}
	s.stop = sync.OnceValue(func() error { // a test may call it beside its cleanup
		cancel()
		return <-ended
	})
	s.admin = admin.NewClient(s.cfg.Admin)
}

// connect makes a device's session. Its peer is registered a moment later.
func (s *site) connect(id string, mux *client.Mux) *client.Session {
	s.t.Helper()
	pair := must[*pki.Pair](s.t)(s.ca.Device(id, 0))
	sess, err := client.Dial(s.t.Context(), &client.Config{URL: s.url, Mux: mux, Software: "test", TLS: &tls.Config{
		RootCAs: s.ca.Pool(), ServerName: pki.ServerName, Certificates: []tls.Certificate{must[tls.Certificate](s.t)(pair.TLS())},
	}})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = sess.Close() })
	for {
		for _, d := range must[[]admin.Device](s.t)(s.admin.Devices(s.t.Context())) {
			if d.Device == id && d.Session == sess.ID() {
				return sess
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestPushTellsWhatBecameOfTheSignal(t *testing.T) {
	s := start(t, nil)
	mux := new(client.Mux)
	mux.OnSignal("yes", func(_ context.Context, sig client.Signal) (string, error) {
		return sig.ContentType + " " + string(sig.Data), nil
	})
	mux.OnSignal("no", func(context.Context, client.Signal) (string, error) { return "", errors.New("not today") })
	mux.OnSignal("never", func(ctx context.Context, _ client.Signal) (string, error) { <-ctx.Done(); return "", ctx.Err() })
	s.connect("d-1", mux)

	for _, tc := range []struct {
		device, name string
		data         []byte
		want         admin.Outcome
	}{
		{"d-1", "yes", []byte("hello"), admin.Outcome{State: admin.Acked, Text: "text/x hello"}},
		{"d-1", "no", nil, admin.Outcome{State: admin.Refused, Code: "refused", Text: "not today"}},
		{"d-1", "un/known?&x=1", nil, admin.Outcome{State: admin.Refused, Code: "not found", Text: "no handler for signal un/known?&x=1"}},
		{"absent", "yes", nil, admin.Outcome{State: admin.Queued, Text: neverSeen}},
		{"not a device", "yes", nil, admin.Outcome{State: admin.Failed, Text: "device: name \"not a device\": byte 3 is not printable ASCII"}},
		{"d-1", "yes", make([]byte, admin.MaxData+1), admin.Outcome{State: admin.Failed, Text: "a signal's data is at most 64 KiB"}},
		{"d-1", "never", nil, admin.Outcome{State: admin.Delivered, Text: "no answer within 50ms"}},
	} {
		timeout := time.Minute
		if tc.name == "never" {
			timeout = 50 * time.Millisecond
		}
		p := &admin.Push{Device: tc.device, Name: tc.name, ContentType: "text/x", Data: tc.data, Timeout: timeout}
		o, err := s.admin.Push(t.Context(), p)
		if outcome := (*admin.OutcomeError)(nil); errors.As(err, &outcome) {
			o = &outcome.Outcome
		} else if err != nil {
			t.Fatal(err)
		} else if o.Signal != p.ID || o.Device != tc.device || o.Time.IsZero() {
			t.Errorf("%+v", o)
		}
		got := admin.Outcome{State: o.State, Code: o.Code, Text: o.Text}
		if got != tc.want {
			t.Errorf("push %s to %s: %+v, want %+v", tc.name, tc.device, got, tc.want)
		}
	}
}

func TestAGroupIsTold(t *testing.T) {
	s := start(t, nil)
	mux := new(client.Mux)
	mux.OnSignal("do", func(context.Context, client.Signal) (string, error) { return "done", nil })
	s.connect("d-1", mux)
	s.connect("d-2", mux)
	said := map[string]string{}
	p := &admin.Push{Group: "both", Name: "do"}
	sum := must[*admin.Summary](t)(s.admin.PushMany(t.Context(), p, func(o admin.Outcome) { said[o.Device] += o.String() + "; " }))
	if sum.ID != p.ID || sum.Devices != 3 || sum.Counts[admin.Acked] != 2 || sum.Counts[admin.Queued] != 1 || sum.Error != "" {
		t.Errorf("%+v", sum)
	}
	if said["d-1"] != "queued; acked: done; " || said["absent"] != "queued: "+admin.OfflineText+"; " {
		t.Errorf("%q", said)
	}
	shown := must[*admin.Signal](t)(s.admin.Signal(t.Context(), p.ID))
	if shown.Target != "group both" || !shown.Complete || shown.Counts[admin.Acked] != 2 {
		t.Errorf("%+v", shown)
	}
	if q := must[[]admin.QueuedSignal](t)(s.admin.Queue(t.Context(), "absent")); len(q) != 1 || q[0].ID != p.ID {
		t.Errorf("%+v", q)
	}
	if all := must[[]admin.Outcome](t)(s.admin.Cancel(t.Context(), p.ID, "absent")); len(all) != 1 || all[0].State != admin.Canceled {
		t.Errorf("%+v", all)
	}
	if l := must[[]admin.Signal](t)(s.admin.Signals(t.Context(), 5)); len(l) != 1 || l[0].ID != p.ID {
		t.Errorf("%+v", l)
	}
	var outcome *admin.OutcomeError
	if _, err := s.admin.PushMany(t.Context(), &admin.Push{Group: "nosuch", Name: "do"}, func(admin.Outcome) {}); !errors.As(err, &outcome) || !strings.Contains(err.Error(), "no group") {
		t.Error(err)
	}
	if _, err := s.admin.Signal(t.Context(), strings.Repeat("0", 32)); !errors.As(err, &outcome) || outcome.State != admin.Unknown {
		t.Error(err)
	}
}

func TestASecondServerOnTheDataIsRefused(t *testing.T) {
	s := start(t, nil)
	cfg := *s.cfg
	cfg.Admin += "2"
	err := Run(t.Context(), &cfg, Options{Logger: slog.New(slog.DiscardHandler)})
	var step interface{ Next() string }
	if !errors.As(err, &step) || !strings.Contains(err.Error(), "in use by another server: process") || !strings.Contains(step.Next(), "--data") {
		t.Errorf("error %v", err)
	}
}

func TestDialGivesBothDirectionsWithHalfClose(t *testing.T) {
	s := start(t, nil)
	mux := new(client.Mux)
	l := must[net.Listener](t)(mux.Listen("reverse"))
	defer func() { _ = l.Close() }()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		b, _ := io.ReadAll(c) // to the end of that direction
		_, _ = c.Write(bytes.ToUpper(b))
		_ = c.Close()
	}()
	s.connect("d", mux)
	c := must[*admin.Conn](t)(s.admin.Dial(t.Context(), "d", "reverse"))
	defer func() { _ = c.Close() }()
	sent := strings.Repeat("hello ", 100_000)
	go func() {
		_, _ = io.WriteString(c, sent)
		_ = c.CloseWrite()
	}()
	if got, err := io.ReadAll(c); err != nil || string(got) != strings.ToUpper(sent) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	var outcome *admin.OutcomeError
	if _, err := s.admin.Dial(t.Context(), "d", "absent"); !errors.As(err, &outcome) || outcome.State != admin.Refused || outcome.Code != "not found" {
		t.Errorf("dial of an absent service: %v", err)
	}
	if _, err := s.admin.Dial(t.Context(), "absent", "x"); !errors.As(err, &outcome) || outcome.State != admin.NotConnected {
		t.Errorf("dial of an absent device: %v", err)
	}
}

func TestDialThatIsCutOffIsNoOrderlyEnd(t *testing.T) {
	s := start(t, nil)
	mux := new(client.Mux)
	l := must[net.Listener](t)(mux.Listen("part"))
	defer func() { _ = l.Close() }()
	sess := s.connect("d", mux)
	c := must[*admin.Conn](t)(s.admin.Dial(t.Context(), "d", "part"))
	defer func() { _ = c.Close() }()
	_, _ = must[net.Conn](t)(l.Accept()).Write([]byte("half of it"))
	if _, err := io.ReadFull(c, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	_ = sess.Close()
	if _, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF || !strings.Contains(err.Error(), "broke") {
		t.Errorf("read after the session's end: %v", err)
	}
}

func TestDeviceReachesWhatIsConfiguredAndItsStatus(t *testing.T) {
	target := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	defer func() { _ = target.Close() }()
	go func() {
		c, err := target.Accept()
		if err != nil {
			return
		}
		_, _ = io.Copy(c, c)
		_ = c.Close()
	}()
	s := start(t, map[string]string{"echo": "tcp://" + target.Addr().String()})
	sess := s.connect("d", nil)
	c := must[net.Conn](t)(sess.Dial(t.Context(), "echo"))
	_, _ = c.Write([]byte("ping"))
	_ = c.(*client.Stream).CloseWrite()
	if got, err := io.ReadAll(c); string(got) != "ping" || err != nil {
		t.Errorf("echo: %q, %v", got, err)
	}
	_ = c.Close()
	if _, err := sess.Dial(t.Context(), "other"); err == nil {
		t.Error("a service that is not configured can be reached")
	}
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return sess.Dial(ctx, "http") }}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Get("http://server/")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var who struct{ Device, Session string }
	if err := json.NewDecoder(resp.Body).Decode(&who); err != nil || who.Device != "d" || who.Session != sess.ID() {
		t.Errorf("status %+v, %v", who, err)
	}
}

func TestStopEndsEverything(t *testing.T) {
	s := start(t, nil)
	sess := s.connect("d", nil)
	go func() { <-sess.Drained(); _ = sess.Close() }()
	if err := s.stop(); err != nil {
		t.Errorf("Run returned %v", err)
	}
	if _, err := os.Lstat(s.cfg.Admin); err == nil {
		t.Error("the admin socket is left")
	}
	var unreachable *admin.UnreachableError
	if _, err := s.admin.Devices(t.Context()); !errors.As(err, &unreachable) {
		t.Errorf("the admin API of a stopped daemon: %v", err)
	}
}

func TestPortTakenSaysSo(t *testing.T) {
	s := start(t, nil)
	cfg := *s.cfg
	cfg.Listen, cfg.Admin, cfg.Data = strings.TrimPrefix(s.url, "http://"), cfg.Admin+"2", cfg.Data+"2"
	err := Run(t.Context(), &cfg, Options{Logger: slog.New(slog.DiscardHandler)})
	var se *StartError
	if !errors.As(err, &se) || !strings.Contains(err.Error(), cfg.Listen) || se.Next() == "" {
		t.Errorf("error %v", err)
	}
}
