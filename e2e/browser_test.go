//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/internal/child"
	"github.com/atls-ws/atls-ws/internal/pki"
)

// relayPage relays bytes in a browser: it opens the carrier, sends an inner
// ClientHello that was made elsewhere, and shows what came back.
const relayPage = `<!doctype html><title>relay</title><p id=said>nothing yet</p><script>
const said = text => { document.getElementById("said").textContent = text; fetch("/said", {method: "POST", body: text}) };
const hello = Uint8Array.from("HELLO".match(/../g), b => parseInt(b, 16));
const ws = new WebSocket("URL", "atls.v1");
ws.binaryType = "arraybuffer";
let opened = false;
ws.onopen = () => { opened = true; ws.send(hello) };
ws.onmessage = m => said("came " + Array.from(new Uint8Array(m.data).slice(0, 6), b => b.toString(16).padStart(2, "0")).join(" "));
ws.onclose = c => { if (!opened) said("closed before it opened, " + c.code) };
</script>`

// clientHello is what a TLS stack sends first.
func clientHello(t *testing.T) []byte {
	t.Helper()
	var b recorder
	c := tls.Client(&b, &tls.Config{ServerName: pki.ServerName, MinVersion: tls.VersionTLS13, NextProtos: []string{"atls-http/1"}})
	if err := c.Handshake(); !errors.Is(err, errRecorded) {
		t.Fatal(err)
	}
	return b.Bytes()
}

var errRecorded = errors.New("only recorded")

// recorder is a connection that nobody answers.
type recorder struct {
	net.Conn
	bytes.Buffer
}

func (r *recorder) Write(p []byte) (int, error)      { return r.Buffer.Write(p) }
func (r *recorder) Read([]byte) (int, error)         { return 0, errRecorded }
func (r *recorder) SetDeadline(time.Time) error      { return nil }
func (r *recorder) SetReadDeadline(time.Time) error  { return nil }
func (r *recorder) SetWriteDeadline(time.Time) error { return nil }
func (r *recorder) Close() error                     { return nil }

// TestBrowserRelaysFromAllowedOriginOnly: a page of an origin on the server's
// list gets a ServerHello through the carrier, a page of another gets 403.
func TestBrowserRelaysFromAllowedOriginOnly(t *testing.T) {
	chromium := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil && chromium == "" {
			chromium = p
		}
	}
	if chromium == "" {
		need(t, "chromium", "chromium")
	}
	s := newSite(t)
	html := ""
	said := make(chan string, 16)
	site := func() *httptest.Server {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/said" {
				var b bytes.Buffer
				_, _ = b.ReadFrom(r.Body)
				said <- b.String()
				return
			}
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			_, _ = fmt.Fprint(w, html)
		}))
		t.Cleanup(srv.Close)
		return srv
	}
	allowed, other := site(), site()
	s.serve(false, "--config", writeConf(s, "server.yaml", "services:\n  http: "+blobStore(t)+"\norigins: ["+allowed.URL+"]\n"))
	html = strings.NewReplacer("HELLO", hex.EncodeToString(clientHello(t)), "URL", "ws://"+s.addr+path).Replace(relayPage)

	for _, tc := range []struct{ name, url, want string }{
		{"allowed", allowed.URL, "came 16 03 03 "}, // a handshake record
		{"other", other.URL, "closed before it opened, 1006"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			profile, err := os.MkdirTemp("", "atls-e2e-")
			s.write(err)
			t.Cleanup(func() { _ = os.RemoveAll(profile) })
			c := startBrowser(t, chromium, profile, tc.url)
			select {
			case got := <-said:
				if !strings.HasPrefix(got, tc.want) || strings.HasPrefix(tc.want, "came") && len(got) != len("came 16 03 03 00 00 02") {
					t.Errorf("the page says %q, want %q", got, tc.want)
				}
				if strings.HasPrefix(tc.want, "came") && !strings.HasSuffix(got, " 02") { // ServerHello
					t.Errorf("the page says %q, want a ServerHello", got)
				}
			case <-bounded(t).Done():
				t.Fatalf("the page says nothing\n%s", c.Tail(20))
			}
		})
	}
	// The browser hides the status from the page; the server's log has it.
	await(t, s.server, "connection refused", "403", "origin is not allowed")
	refusedOrigin(t, s, other.URL)
}

func startBrowser(t *testing.T, program, profile, url string) *child.Child {
	t.Helper()
	return start(t, "chromium", exec.Command(program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--no-proxy-server",
		"--remote-debugging-port=0", "--user-data-dir="+profile, url))
}

// refusedOrigin asks as the browser did and looks at the status.
func refusedOrigin(t *testing.T, s *site, origin string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), grace)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.addr+path, nil)
	s.write(err)
	for k, v := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
		"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": "atls.v1", "Origin": origin} {
		r.Header.Set(k, v)
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	s.write(err)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("status %d, want 403", resp.StatusCode)
	}
}
