package daemon

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
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

// consoleSite is a daemon with a console for a domain.
func consoleSite(t *testing.T, domain string, rules []config.OperatorRule) (s *site, browse func(cert *tls.Certificate) *http.Client) {
	t.Helper()
	operators := must[*pki.CA](t)(pki.NewCA("operators"))
	public := must[*pki.CA](t)(pki.NewCA("public"))
	s = startWith(t, func(cfg *config.Server, dir string) {
		pair := must[*pki.Pair](t)(public.Server([]string{domain, "*." + domain}, 0))
		check := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		check(os.Mkdir(filepath.Join(dir, "ops"), 0o700))
		check(os.Mkdir(filepath.Join(dir, "public"), 0o700))
		check(public.Write(filepath.Join(dir, "public"), false))
		check(operators.Write(filepath.Join(dir, "ops"), false))
		check(pair.Write(dir, "console", false))
		check(os.WriteFile(filepath.Join(dir, "tokens"), []byte("ci 0123456789abcdef\n"), 0o600))
		cfg.Console = config.Console{Listen: "127.0.0.1:0", Cert: pki.CertPath(dir, "console"), Key: pki.KeyPath(dir, "console"),
			Domain: domain, ClientsCA: pki.CertPath(filepath.Join(dir, "ops"), pki.CAFile), Tokens: filepath.Join(dir, "tokens")}
		cfg.Authorization.Operators = rules
	})
	addr := s.log.match(t, `msg=console addr=(\S+)`)
	mux := new(client.Mux)
	l := must[net.Listener](t)(mux.Listen("web"))
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "page of %s%s, auth=%q cookies=%q", r.Host, r.URL.Path, r.Header.Get("Authorization"), r.Header.Get("Cookie"))
	})}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	s.connect("pump-7", mux)
	return s, func(cert *tls.Certificate) *http.Client {
		tr := &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", addr)
			},
			TLSClientConfig: &tls.Config{RootCAs: public.Pool()},
		}
		if cert != nil {
			pair := must[*pki.Pair](t)(operators.Device("alice.ops", 0))
			*cert = must[tls.Certificate](t)(pair.TLS())
			tr.TLSClientConfig.Certificates = []tls.Certificate{*cert}
		}
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr, Jar: must[*cookiejar.Jar](t)(cookiejar.New(nil))}
	}
}

func fetch(t *testing.T, c *http.Client, url, bearer string) (int, string) {
	t.Helper()
	req := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil))
	req.Header.Set("Accept", "text/html")
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	return resp.StatusCode, string(must[[]byte](t)(io.ReadAll(resp.Body)))
}

func TestConsoleShowsPagesToOperatorsAlone(t *testing.T) {
	s, browse := consoleSite(t, "dev.test", []config.OperatorRule{
		{Who: []string{"local"}, May: []string{"list"}, Devices: []string{"*"}},
		{Who: []string{"token:ci", "cert:*alice.ops"}, May: []string{"dial"}, Devices: []string{"pump-*"}, Services: []string{"web"}},
		{Who: []string{"cert:*alice.ops"}, May: []string{"list"}, Devices: []string{"*"}},
	})
	const page = "https://pump-7.dev.test/x"
	nobody := browse(nil)
	for _, tc := range []struct {
		client              *http.Client
		url, bearer, expect string
	}{
		{nobody, page, "", "401 <!doctype html>"},
		{nobody, page, "wrong-wrong-wrong", "401 "},
		{nobody, page, "0123456789abcdef", `200 page of pump-7.dev.test/x, auth="" cookies=""`},
		{browse(new(tls.Certificate)), page, "", `200 page of pump-7.dev.test/x`},
		{nobody, "https://gate.dev.test/", "0123456789abcdef", "403 the server's rules do not let token:ci reach the service web of the device gate"},
		{nobody, "https://pump-9.dev.test/", "0123456789abcdef", "503 atls-ws: the device is not connected"},
		{nobody, "https://dev.test/", "0123456789abcdef", "403 <!doctype html>"},
		{browse(new(tls.Certificate)), "https://dev.test/", "", "200 <!doctype html>"},
		{browse(new(tls.Certificate)), "https://dev.test/metrics", "", "200 # HELP"},
		{nobody, "https://dev.test/metrics", "0123456789abcdef", "403 the server's rules do not let token:ci list devices"},
		{nobody, "https://dev.test/debug/pprof/", "", "401 "},
		{browse(new(tls.Certificate)), "https://dev.test/debug/pprof/", "", "404 "},
		{browse(new(tls.Certificate)), "https://dev.test" + admin.BackupPath, "", "404 "},
		{nobody, "https://dev.test/v1/devices", "0123456789abcdef", `403 {"state":"refused","code":"not allowed"`},
		{browse(new(tls.Certificate)), "https://dev.test/v1/devices", "", `200 [{"device":"pump-7"`},
	} {
		code, body := fetch(t, tc.client, tc.url, tc.bearer)
		if got := fmt.Sprint(code, " ", body); !strings.HasPrefix(got, tc.expect) {
			t.Errorf("%s: %q, want %q", tc.url, got, tc.expect)
		}
	}
	s.log.match(t, `msg=decision who=token:ci action=dial device=gate target=web from=127.0.0.1:\d+ allowed=false`)
}

func TestConsoleLoginIsForOneDevicesPages(t *testing.T) {
	s, browse := consoleSite(t, "dev.test", nil)
	c := browse(nil)
	resp, err := c.PostForm("https://pump-7.dev.test"+loginPath, url.Values{"token": {"wrong"}})
	if err != nil || resp.StatusCode != http.StatusForbidden {
		t.Fatalf("%v, %v", resp, err)
	}
	_ = resp.Body.Close()
	if resp, err = c.PostForm("https://pump-7.dev.test"+loginPath, url.Values{"token": {"0123456789abcdef"}}); err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if want := `page of pump-7.dev.test/, auth="" cookies=""`; string(body) != want {
		t.Errorf("%q, want %q", body, want)
	}
	at := must[*url.URL](t)(url.Parse("https://pump-7.dev.test/"))
	cookie := c.Jar.Cookies(at)[0]
	other := must[*url.URL](t)(url.Parse("https://pump-8.dev.test/"))
	c.Jar.SetCookies(other, []*http.Cookie{cookie})
	if code, body := fetch(t, c, "https://pump-8.dev.test/", ""); code != http.StatusUnauthorized {
		t.Errorf("the login at another device: %d %s", code, body)
	}
	// It ends with its token.
	if err := os.WriteFile(s.cfg.Console.Tokens, []byte("new fedcba9876543210ff\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _ := fetch(t, c, "https://pump-7.dev.test/", ""); code != http.StatusUnauthorized {
		t.Errorf("after the token's end: %d", code)
	}
}

func TestOperatorElsewhereUsesTheConsole(t *testing.T) {
	s, _ := consoleSite(t, "localhost", []config.OperatorRule{
		{Who: []string{"local"}, May: []string{"list"}, Devices: []string{"*"}},
		{Who: []string{"token:ci"}, May: []string{"list", "dial"}, Devices: []string{"*"}},
	})
	_, port, _ := net.SplitHostPort(s.log.match(t, `msg=console addr=(\S+)`))
	file := pki.CertPath(filepath.Join(filepath.Dir(s.cfg.Admin), "public"), pki.CAFile)
	at := "https://localhost:" + port
	c := admin.NewRemote(at, admin.Remote{CA: file, Token: "0123456789abcdef"})
	all, err := c.Devices(t.Context())
	if err != nil || len(all) != 1 || all[0].Device != "pump-7" {
		t.Errorf("%v, %v", all, err)
	}
	stream := must[*admin.Conn](t)(c.Dial(t.Context(), "pump-7", "web"))
	if got := say(t, stream, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); !strings.Contains(got, "page of x/") {
		t.Errorf("%q", got)
	}
	var outcome *admin.OutcomeError
	if _, err := c.Push(t.Context(), &admin.Push{Device: "pump-7", Name: "reboot"}); !errors.As(err, &outcome) || outcome.Code != "not allowed" {
		t.Errorf("signal: %v", err)
	}
	if _, err := admin.NewRemote(at, admin.Remote{CA: file}).Devices(t.Context()); !errors.As(err, &outcome) || outcome.Code != admin.Unauthenticated {
		t.Errorf("nobody: %v", err)
	}
	var unreachable *admin.UnreachableError
	for _, bad := range []*admin.Client{
		admin.NewRemote(at, admin.Remote{}), // signed by nobody known
		admin.NewRemote(at+"/x", admin.Remote{CA: file}), admin.NewRemote(at, admin.Remote{CA: "/nonexistent"}), admin.NewRemote(at, admin.Remote{CA: file, Cert: file}),
	} {
		if _, err := bad.Devices(t.Context()); !errors.As(err, &unreachable) {
			t.Errorf("%v", err)
		}
	}
}

func TestOperatorOfTheConsoleDialsWithHalfClose(t *testing.T) {
	_, browse := consoleSite(t, "dev.test", nil)
	tr := browse(nil).Transport.(*http.Transport)
	raw := must[net.Conn](t)(tr.DialContext(t.Context(), "", ""))
	conf := tr.TLSClientConfig.Clone()
	conf.ServerName = "dev.test"
	conn := tls.Client(raw, conf)
	defer func() { _ = conn.Close() }()
	_, _ = io.WriteString(conn, "POST /v1/devices/pump-7/services/web HTTP/1.1\r\nHost: dev.test\r\nAuthorization: Bearer 0123456789abcdef\r\nConnection: Upgrade\r\nUpgrade: atls-stream\r\n\r\n")
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", resp, err)
	}
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	_ = conn.CloseWrite()
	if body, err := io.ReadAll(r); !strings.Contains(string(body), "page of x/") || err != nil {
		t.Errorf("%q, %v", body, err)
	}
}

func TestStrangersAtTheConsoleAreInTheAuditLogAndCounted(t *testing.T) {
	s, browse := consoleSite(t, "dev.test", nil)
	c := browse(nil)
	for range 20 {
		resp := must[*http.Response](t)(c.PostForm("https://dev.test"+loginPath, url.Values{"token": {"wrong-wrong-wrong"}}))
		_ = resp.Body.Close()
		fetch(t, c, "https://dev.test/v1/devices", "wrong-wrong-wrong")
	}
	fetch(t, c, "https://dev.test/", "")
	req := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), http.MethodPost, "https://dev.test/v1/signals?name=x", http.NoBody))
	req.Header.Set("Authorization", "Bearer 0123456789abcdef")
	req.Header.Set("Origin", "https://evil.example")
	resp := must[*http.Response](t)(c.Do(req))
	_ = resp.Body.Close()
	resp = must[*http.Response](t)(c.PostForm("https://dev.test"+loginPath, url.Values{"token": {"0123456789abcdef"}}))
	_ = resp.Body.Close()
	s.log.match(t, `msg=decision who=nobody action=login device="" target="" from=127.0.0.1:\d+ allowed=false rule=(wrong_token)`)
	s.log.match(t, `msg=decision who=nobody action=login .* allowed=false rule=(other_site)`)
	s.log.match(t, `msg=decision who=token:ci action=login .* allowed=true rule=(token)`)
	if _, body := s.atAdmin("/metrics"); !strings.Contains(body, `atls_operators_refused_total{reason="wrong_token"} 40`) ||
		!strings.Contains(body, `atls_operators_refused_total{reason="no_credentials"} 1`) || !strings.Contains(body, `atls_operators_refused_total{reason="other_site"} 1`) {
		t.Error(body)
	}
	if text := s.log.String(); strings.Contains(text, "wrong-wrong") || strings.Contains(text, "0123456789abcdef") {
		t.Errorf("a token is in the log:\n%s", text)
	}
}

func TestAStrangerAtTheConsoleIsNotWaitedFor(t *testing.T) {
	s, browse := consoleSite(t, "dev.test", nil) // for its files
	cfg := *s.cfg
	cfg.Admin, cfg.Data = cfg.Admin+"2", cfg.Data+"2"
	d := &daemon{log: slog.New(slog.DiscardHandler), metrics: newMetrics()}
	defer d.close()
	if err := d.open(t.Context(), &cfg, Options{}); err != nil {
		t.Fatal(err)
	}
	d.console.patience = 50 * time.Millisecond
	d.wg.Go(func() { _ = d.console.http.Serve(d.console.listener) })
	for _, request := range []string{
		"POST " + loginPath + " HTTP/1.1\r\nHost: dev.test\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000\r\n\r\ntoken=",
		"POST /v1/signals HTTP/1.1\r\nHost: dev.test\r\nContent-Length: 1000\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: elsewhere.test\r\nTransfer-Encoding: chunked\r\n\r\n",
	} {
		conf := browse(nil).Transport.(*http.Transport).TLSClientConfig.Clone()
		conf.ServerName = "dev.test"
		conn := tls.Client(must[net.Conn](t)(net.Dial("tcp", d.console.listener.Addr().String())), conf)
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = io.WriteString(conn, request)
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%q: still open", request)
		}
		_ = conn.Close()
	}
}
