package server_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/leak"
	"github.com/atls-ws/atls-ws/internal/pki"
	"github.com/atls-ws/atls-ws/server"
	"github.com/atls-ws/atls-ws/wsconn"
)

func TestMain(m *testing.M) { leak.Main(m) }

// site is a server and the certificates for its devices.
type site struct {
	ca  *pki.CA
	srv *server.Server
	web *httptest.Server
}

func cert(tb testing.TB, p *pki.Pair, err error) tls.Certificate {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
	c, err := p.TLS()
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func newSite(tb testing.TB, cfg *server.Config) *site {
	tb.Helper()
	ca, err := pki.NewCA("test CA")
	if err != nil {
		tb.Fatal(err)
	}
	s := &site{ca: ca}
	pair, err := ca.Server([]string{pki.ServerName}, 0)
	cfg.TLS = &tls.Config{Certificates: []tls.Certificate{cert(tb, pair, err)}, ClientCAs: ca.Pool()}
	if s.srv, err = server.New(cfg); err != nil {
		tb.Fatal(err)
	}
	s.web = httptest.NewUnstartedServer(s.srv)
	s.web.Config.ErrorLog = log.New(io.Discard, "", 0) // panics are for the tests
	s.web.TLS = &tls.Config{NextProtos: []string{"http/1.1"}}
	s.web.StartTLS()
	tb.Cleanup(func() { _ = s.srv.Close(); s.web.Close() })
	return s
}

func (s *site) config(tb testing.TB, device string) *client.Config {
	tb.Helper()
	pair, err := s.ca.Device(device, 0)
	return &client.Config{
		URL:   s.web.URL,
		TLS:   &tls.Config{RootCAs: s.ca.Pool(), ServerName: pki.ServerName, Certificates: []tls.Certificate{cert(tb, pair, err)}},
		Proxy: func(*http.Request) (*url.URL, error) { return nil, nil },
		Mux:   new(client.Mux),
	}
}

func (s *site) dial(tb testing.TB, c *client.Config) *client.Session {
	tb.Helper()
	sess, err := client.Dial(tb.Context(), c)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = sess.Close() })
	eventually(tb, func() bool { _, ok := s.srv.Registry().Get(sess.Device()); return ok })
	return sess
}

// roots trust the site's outer certificate.
func (s *site) roots() *x509.CertPool {
	return s.web.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
}

func eventually(tb testing.TB, cond func() bool) {
	tb.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatal("did not happen")
		}
	}
}

func TestPushReturnsTheHandlersReply(t *testing.T) {
	s := newSite(t, &server.Config{})
	cfg := s.config(t, "device-1")
	cfg.Mux.OnSignal("greet", func(_ context.Context, sig client.Signal) (string, error) {
		return "hello " + string(sig.Data), nil
	})
	s.dial(t, cfg)
	reply, err := s.srv.Push(t.Context(), "device-1", server.Signal{Name: "greet", Data: []byte("you")})
	if err != nil || reply != "hello you" {
		t.Errorf("%q, %v", reply, err)
	}
	var refused *server.RefusedError
	if _, err := s.srv.Push(t.Context(), "device-1", server.Signal{Name: "other"}); !errors.As(err, &refused) || refused.Code != server.NotFound {
		t.Error(err)
	}
	if _, err := s.srv.Push(t.Context(), "device-2", server.Signal{Name: "greet"}); !errors.Is(err, server.ErrNotConnected) {
		t.Error(err)
	}
}

func TestHostedHandlerSeesTheInnerState(t *testing.T) {
	s := newSite(t, &server.Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sess, ok := server.FromContext(r.Context())
		if !ok || r.TLS == nil {
			http.Error(w, "no session", 500)
			return
		}
		_, _ = fmt.Fprintf(w, "%s %s %s", sess.Device(), r.TLS.PeerCertificates[0].URIs[0], r.TLS.NegotiatedProtocol)
	})})
	c, err := client.New(s.config(t, "device-1"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var run sync.WaitGroup
	run.Go(func() { _ = c.Run(ctx) })
	defer run.Wait()
	defer cancel()
	tr := c.Transport(server.ServiceHTTP)
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Get("http://cloud/hello")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if want := "device-1 urn:atls-ws:device:device-1 atls-mux/1"; string(body) != want {
		t.Errorf("%q, want %q", body, want)
	}
	if _, err := (&http.Client{Transport: tr}).Get("https://cloud/"); err == nil || !strings.Contains(err.Error(), "http URL") {
		t.Error(err)
	}
}

func TestTransportReachesTheDevicesService(t *testing.T) {
	s := newSite(t, &server.Config{})
	cfg := s.config(t, "device-1")
	l, err := cfg.Mux.Listen("web")
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "the device's page") })}
	var serving sync.WaitGroup
	serving.Go(func() { _ = web.Serve(l) })
	defer serving.Wait()
	defer func() { _ = web.Close() }()
	s.dial(t, cfg)
	tr := s.srv.Transport("device-1", "web")
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Get("http://device-1/")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if string(body) != "the device's page" {
		t.Errorf("%q", body)
	}
}

func TestNewestSessionWinsAndTheOldIsTold(t *testing.T) {
	var hooks struct {
		sync.Mutex
		connected, disconnected int
	}
	s := newSite(t, &server.Config{Hooks: server.Hooks{
		Connected:    func(*server.Session) { hooks.Lock(); hooks.connected++; hooks.Unlock() },
		Disconnected: func(*server.Session, error) { hooks.Lock(); hooks.disconnected++; hooks.Unlock() },
	}})
	cfg := s.config(t, "device-1")
	old := s.dial(t, cfg)
	fresh := s.dial(t, cfg)
	<-old.Done()
	if !errors.Is(old.Err(), client.ErrReplaced) {
		t.Errorf("old session ended with %v", old.Err())
	}
	eventually(t, func() bool {
		hooks.Lock()
		defer hooks.Unlock()
		return hooks.connected == 2 && hooks.disconnected == 1
	})
	if got, ok := s.srv.Registry().Get("device-1"); !ok || got.ID() != fresh.ID() || s.srv.Registry().Len() != 1 {
		t.Error("the registry lost the newest session")
	}
	for got := range s.srv.Registry().All() {
		if got.ID() != fresh.ID() {
			t.Error("All gives a session that is over")
		}
	}
}

func TestHelloReportsTheOuterHop(t *testing.T) {
	s := newSite(t, &server.Config{})
	s.dial(t, s.config(t, "device-1"))
	got, _ := s.srv.Registry().Get("device-1")
	o := got.Hello().Outer
	if o == nil || o.Verified || o.Intercepted || len(o.Chain) == 0 || o.VerifyError == "" || o.TLSVersion != "TLS 1.3" {
		t.Errorf("%+v", o)
	}
}

func TestOuterVerifyRefusesAnUnknownChain(t *testing.T) {
	s := newSite(t, &server.Config{})
	cfg := s.config(t, "device-1")
	cfg.Outer = &client.OuterConfig{Policy: client.OuterVerify}
	var up *client.CarrierError
	if _, err := client.Dial(t.Context(), cfg); !errors.As(err, &up) || !strings.Contains(err.Error(), "unknown authority") {
		t.Error(err)
	}
	cfg.Outer.Roots = s.roots()
	s.dial(t, cfg)
}

func TestFullServerAnswers503(t *testing.T) {
	s := newSite(t, &server.Config{Limits: server.Limits{Sessions: 1}})
	s.dial(t, s.config(t, "device-1"))
	var up *client.CarrierError
	if _, err := client.Dial(t.Context(), s.config(t, "device-2")); !errors.As(err, &up) || up.StatusCode != 503 || up.RetryAfter < 5*time.Second || up.RetryAfter > 15*time.Second {
		t.Error(err)
	}
}

func TestSilentPeerIsRefusedInTime(t *testing.T) {
	refused := make(chan error, 1)
	s := newSite(t, &server.Config{Limits: server.Limits{ReadyTimeout: 50 * time.Millisecond},
		Hooks: server.Hooks{Refused: func(_ string, err error) { refused <- err }}})
	conn, err := tls.Dial("tcp", s.web.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
	if err := <-refused; !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestShutdownDrainsAndCloses(t *testing.T) {
	s := newSite(t, &server.Config{})
	sess := s.dial(t, s.config(t, "device-1"))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	go func() {
		<-sess.Drained()
		_ = sess.Close()
	}()
	if err := s.srv.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	var up *client.CarrierError
	if _, err := client.Dial(t.Context(), s.config(t, "device-1")); !errors.As(err, &up) || up.StatusCode != 503 {
		t.Error(err)
	}
}

func TestClientReconnects(t *testing.T) {
	s := newSite(t, &server.Config{})
	cfg := s.config(t, "device-1")
	down := make(chan error, 4)
	cfg.OnDisconnect = func(err error, _ time.Duration) { down <- err }
	c, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var run sync.WaitGroup
	run.Go(func() { _ = c.Run(ctx) })
	defer run.Wait()
	defer cancel()
	eventually(t, func() bool { return s.srv.Registry().Len() == 1 })
	first, _ := s.srv.Registry().Get("device-1")
	_ = first.Close()
	if err := <-down; !errors.Is(err, client.ErrPeerGone) {
		t.Errorf("OnDisconnect got %v", err)
	}
	eventually(t, func() bool { now, ok := s.srv.Registry().Get("device-1"); return ok && now != first })
}

func TestBadConfigurationsAreRefused(t *testing.T) {
	for name, cfg := range map[string]*client.Config{
		"nil":        nil,
		"no URL":     {},
		"scheme":     {URL: "ftp://x/"},
		"no TLS":     {URL: "https://x/"},
		"system CAs": {URL: "https://x/", TLS: &tls.Config{ServerName: "x"}},
		"insecure":   {URL: "https://x/", TLS: &tls.Config{InsecureSkipVerify: true}},
	} {
		if _, err := client.New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for name, cfg := range map[string]*server.Config{"nil": nil, "no TLS": {}, "no CA": {TLS: &tls.Config{}}} {
		if _, err := server.New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestDialDeviceStreamHasHalfClose(t *testing.T) {
	s := newSite(t, &server.Config{})
	cfg := s.config(t, "device-1")
	l, err := cfg.Mux.Listen("echo")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	var serving sync.WaitGroup
	serving.Go(func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		data, _ := io.ReadAll(conn)
		_, _ = conn.Write(data)
		_ = conn.Close()
	})
	defer serving.Wait()
	s.dial(t, cfg)
	conn, err := s.srv.DialDevice(t.Context(), "device-1", "echo")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, "until the end")
	_ = conn.(*server.Stream).CloseWrite()
	data, err := io.ReadAll(conn)
	if err != nil || string(data) != "until the end" {
		t.Errorf("%q, %v", data, err)
	}
	_ = conn.Close()
}

// A handler that does not look at its context holds up its session's Close, and
// nothing else: a device that is gone is not connected, a newer session is.
func TestAHungHandlerHoldsUpItsOwnSessionOnly(t *testing.T) {
	mux := new(server.Mux)
	entered, release := make(chan struct{}, 2), make(chan struct{})
	mux.OnSignal("hang", func(context.Context, server.Signal) (string, error) {
		entered <- struct{}{}
		<-release
		return "", nil
	})
	s := newSite(t, &server.Config{Mux: mux})
	defer close(release)
	cfg := s.config(t, "device-1")
	cfg.Mux.OnSignal("greet", func(context.Context, client.Signal) (string, error) { return "hello", nil })
	hang := func(sess *client.Session) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { <-entered; cancel() }()
		if _, err := sess.Signal(ctx, client.Signal{Name: "hang"}); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	first := s.dial(t, cfg)
	hang(first)
	second := s.dial(t, cfg)
	<-first.Done()
	eventually(t, func() bool {
		r, err := s.srv.Push(t.Context(), "device-1", server.Signal{Name: "greet"})
		return err == nil && r == "hello"
	})
	hang(second)
	_ = second.Close()
	eventually(t, func() bool {
		_, err := s.srv.Push(t.Context(), "device-1", server.Signal{Name: "greet"})
		return errors.Is(err, server.ErrNotConnected)
	})
}

func TestAnIdentityThatIsNoNameIsRefused(t *testing.T) {
	id := ""
	s := newSite(t, &server.Config{Identify: func(tls.ConnectionState) (string, error) { return id, nil }})
	for _, id = range []string{"", "a b", "a\x1b[2Jb"} {
		sess, err := client.Dial(t.Context(), s.config(t, "device-1"))
		var refused *client.RefusedError
		if !errors.As(err, &refused) || refused.Code != client.NotAllowed {
			t.Errorf("%q: %v", id, err)
		}
		if err == nil {
			_ = sess.Close()
		}
	}
}

// Those who begin a handshake and say no more hold no turn.
func TestSilentPeersDoNotHoldUpOthers(t *testing.T) {
	s := newSite(t, &server.Config{})
	for range 8 * runtime.GOMAXPROCS(0) {
		conn, err := wsconn.Dial(t.Context(), s.web.URL, &wsconn.DialOptions{
			TLS:   &tls.Config{RootCAs: s.roots(), ServerName: "example.com"},
			Proxy: func(*http.Request) (*url.URL, error) { return nil, nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	s.dial(t, s.config(t, "device-1"))
}
