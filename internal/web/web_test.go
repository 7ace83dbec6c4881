package web

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/atls-ws/atls-ws/internal/leak"
	"github.com/atls-ws/atls-ws/internal/pki"
)

func TestMain(m *testing.M) { leak.Main(m) }

var quiet = slog.New(slog.DiscardHandler)

func start(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func get(t *testing.T, url string, prepare func(*http.Request)) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if prepare != nil {
		prepare(req)
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func TestOriginIsToldWhoAsksAndNotWhatTheDeviceSays(t *testing.T) {
	ca, err := pki.NewCA("CA")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Device("pump-7", 0)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pair.TLS()
	if err != nil {
		t.Fatal(err)
	}
	leaf, middle, root := cert.Leaf, &x509.Certificate{Raw: []byte("intermediate")}, &x509.Certificate{Raw: []byte("root")}
	origin := start(t, func(w http.ResponseWriter, r *http.Request) {
		for _, name := range []string{HeaderCert, HeaderChain, HeaderDeviceID, "Client_cert", "X_device_id", "X-Forwarded-For", "X_forwarded_for", "Forwarded", "Other"} {
			_, _ = fmt.Fprintf(w, "%s=%s\n", name, strings.Join(r.Header[name], "|"))
		}
		_, _ = fmt.Fprintf(w, "%s %s", r.URL, r.Host)
	})
	to, _ := url.Parse(origin + "/base")
	tr := Transport()
	defer tr.CloseIdleConnections()
	proxy := start(t, NewOrigin(to, tr, func(*http.Request) Device {
		return Device{"pump-7", tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: [][]*x509.Certificate{{leaf, middle, root}}}}
	}, quiet).ServeHTTP)
	_, body := get(t, proxy+"/api/x?y=1", func(r *http.Request) {
		r.Header["client-cert"] = []string{":AAAA:"}
		r.Header["CLIENT-CERT-CHAIN"] = []string{":AAAA:"}
		r.Header["Client_Cert"] = []string{":AAAA:"}
		r.Header["x_device-id"] = []string{"boss"}
		r.Header["X-DEVICE-ID"] = []string{"boss"}
		r.Header["X_forwarded_for"] = []string{"1.2.3.4"}
		r.Header["Forwarded"] = []string{"for=1.2.3.4"}
		r.Header["X-Forwarded-For"] = []string{"1.2.3.4"}
		r.Header["Connection"] = []string{"X-Device-Id, Client-Cert"}
		r.Header["Other"] = []string{"stays"}
	})
	b64 := base64.StdEncoding.EncodeToString
	want := strings.Join([]string{"Client-Cert=:" + b64(leaf.Raw) + ":", "Client-Cert-Chain=:" + b64(middle.Raw) + ":", "X-Device-Id=pump-7",
		"Client_cert=", "X_device_id=", "X-Forwarded-For=127.0.0.1", "X_forwarded_for=", "Forwarded=", "Other=stays",
		"/base/api/x?y=1 " + strings.TrimPrefix(origin, "http://")}, "\n")
	if body != want {
		t.Errorf("got:\n%s\nwant:\n%s", body, want)
	}
}

func TestOriginThatDoesNotAnswerIs502(t *testing.T) {
	to, _ := url.Parse("http://127.0.0.1:1")
	tr := Transport()
	proxy := start(t, NewOrigin(to, tr, func(*http.Request) Device { return Device{} }, quiet).ServeHTTP)
	if resp, body := get(t, proxy, nil); resp.StatusCode != http.StatusBadGateway || !strings.Contains(body, "does not answer") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

// page is a proxy to a device's web server, which h is.
func page(t *testing.T, cfg PageConfig, h http.HandlerFunc) string {
	t.Helper()
	device := start(t, h)
	cfg.Logger = quiet
	cfg.Device = func(*http.Request) string { return "urn:dev:1%2" }
	dial := cfg.Dial
	cfg.Dial = func(ctx context.Context, id string) (net.Conn, error) {
		if id != "urn:dev:1%2" {
			t.Errorf("dials %q", id)
		}
		if dial != nil {
			return dial(ctx, id)
		}
		return new(net.Dialer).DialContext(ctx, "tcp", strings.TrimPrefix(device, "http://"))
	}
	p := NewPage(cfg)
	t.Cleanup(p.Close)
	return start(t, p.ServeHTTP)
}

func TestPageKeepsTheHostUnlessAnotherIsGiven(t *testing.T) {
	show := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "http://"+r.Host+"/next?x")
		w.Header().Add("Set-Cookie", "a=b; Domain=example.com; Path=/")
		w.Header().Add("Set-Cookie", "own=evil; Path=/")
		w.WriteHeader(http.StatusFound)
		_, _ = fmt.Fprintf(w, "%s %s %s cookie=%s auth=%s", r.Host, r.Header.Get("Origin"), r.Header.Get("X-Forwarded-Host"), r.Header.Get("Cookie"), r.Header.Get("Authorization"))
	}
	prepare := func(r *http.Request) {
		r.Header.Set("Origin", "http://"+r.URL.Host)
		r.Header.Set("Cookie", "own=secret; x=y")
		r.Header.Set("Authorization", "Bearer secret")
	}
	plain := page(t, PageConfig{Cookie: "own"}, show)
	host := strings.TrimPrefix(plain, "http://")
	resp, body := get(t, plain, prepare)
	if want := host + " " + plain + " " + host + " cookie=x=y auth="; body != want || resp.Header.Get("Location") != plain+"/next?x" {
		t.Errorf("%q, %v, want %q", body, resp.Header, want)
	}
	if got := resp.Header["Set-Cookie"]; len(got) != 1 || got[0] != "a=b; Path=/" {
		t.Errorf("cookies %q", got)
	}
	named := page(t, PageConfig{Host: "router.lan"}, show)
	resp, body = get(t, named, prepare)
	if want := "router.lan http://router.lan " + strings.TrimPrefix(named, "http://") + " cookie=own=secret; x=y auth=Bearer secret"; body != want || resp.Header.Get("Location") != named+"/next?x" {
		t.Errorf("%q, %v, want %q", body, resp.Header, want)
	}
}

func TestOtherOriginsCannotUseAPage(t *testing.T) {
	url := page(t, PageConfig{}, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "done") })
	for name, prepare := range map[string]func(*http.Request){
		"POST by Sec-Fetch-Site": func(r *http.Request) { r.Method = "POST"; r.Header.Set("Sec-Fetch-Site", "same-site") },
		"POST by Origin":         func(r *http.Request) { r.Method = "POST"; r.Header.Set("Origin", "http://other.test") },
		"WebSocket": func(r *http.Request) {
			r.Header.Set("Connection", "Upgrade")
			r.Header.Set("Upgrade", "websocket")
			r.Header.Set("Origin", "http://other.test")
		},
		"picture": func(r *http.Request) { fetched(r, "same-site", "no-cors", "image") },
		"script":  func(r *http.Request) { fetched(r, "cross-site", "cors", "empty") },
		"frame":   func(r *http.Request) { fetched(r, "same-site", "navigate", "iframe") },
	} {
		if resp, body := get(t, url, prepare); resp.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %d %s", name, resp.StatusCode, body)
		}
	}
	for name, prepare := range map[string]func(*http.Request){
		"its own form":   func(r *http.Request) { r.Method = "POST"; r.Header.Set("Sec-Fetch-Site", "same-origin") },
		"its own script": func(r *http.Request) { fetched(r, "same-origin", "cors", "empty") },
		"a link":         func(r *http.Request) { fetched(r, "same-site", "navigate", "document") },
		"the address":    func(r *http.Request) { fetched(r, "none", "navigate", "document") },
	} {
		if resp, body := get(t, url, prepare); body != "done" {
			t.Errorf("%s: %d %s", name, resp.StatusCode, body)
		}
	}
}

// fetched is what a browser says of why it asks.
func fetched(r *http.Request, site, mode, dest string) {
	r.Header.Set("Sec-Fetch-Site", site)
	r.Header.Set("Sec-Fetch-Mode", mode)
	r.Header.Set("Sec-Fetch-Dest", dest)
}

func TestDeviceThatCannotBeReachedIsExplained(t *testing.T) {
	gone := func(context.Context, string) (net.Conn, error) { return nil, errors.New("gone fishing") }
	url := page(t, PageConfig{Dial: gone, Explain: func(err error) (int, string) { return 404, "explained: " + err.Error() }}, nil)
	if resp, body := get(t, url, nil); resp.StatusCode != 404 || !strings.Contains(body, "explained: gone fishing") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

func TestStreamsAndUpgradesPass(t *testing.T) {
	proceed := make(chan struct{})
	url := page(t, PageConfig{}, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "echo" {
			conn, buf, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			_, _ = io.Copy(conn, buf)
			_ = conn.Close()
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: one\n")
		_ = http.NewResponseController(w).Flush()
		<-proceed // the first line arrives before there is a second one
		_, _ = io.WriteString(w, "data: two\n")
	})
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(resp.Body)
	if line, err := r.ReadString('\n'); line != "data: one\n" {
		t.Fatalf("%q, %v", line, err)
	}
	close(proceed)
	if line, err := r.ReadString('\n'); line != "data: two\n" {
		t.Errorf("%q, %v", line, err)
	}
	_ = resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()

	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	br := bufio.NewReader(conn)
	if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != 101 {
		t.Fatalf("%v, %v", resp, err)
	}
	_, _ = io.WriteString(conn, "ping\n")
	if line, err := br.ReadString('\n'); line != "ping\n" {
		t.Errorf("%q, %v", line, err)
	}
}
