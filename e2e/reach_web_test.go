//go:build e2e

package e2e

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

// consoleYAML is a console at device.test, which lets in one token, with rules
// by which it sees this device and no other.
func consoleYAML(s *site) string {
	s.pair("console")(s.outer.Server([]string{"device.test", "*.device.test"}, 0))
	s.write(os.WriteFile(s.file("tokens"), []byte("ci 0123456789abcdef\n"), 0o600))
	return fmt.Sprintf(`console:
  listen: 127.0.0.1:0
  cert: %s
  key: %s
  domain: device.test
  tokens: %s
authorization:
  operators:
  - {who: [local], may: [list, signal, dial], devices: ["*"]}
  - {who: ["token:ci"], may: [dial], devices: [%s]}
audit: %s
`, s.cert("console"), s.key("console"), s.file("tokens"), deviceID, s.file("audit"))
}

func TestReachWebPageEventsAndWebSocket(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.serveWith(consoleYAML(s))
	startDevice(t, s, "--service", "web="+webApp(t))
	s.ready()
	s.write(s.outer.Write(s.file("outer-ca"), false))
	consoleAddr := address(t, s.server, "msg=console")
	_, consolePort, _ := net.SplitHostPort(consoleAddr)
	console := "https://" + deviceID + ".device.test:" + consolePort
	curlConsole := []string{"-sS", "--max-time", "20", "--cacert", s.file("outer-ca", "ca.pem"), "--connect-to", "::" + consoleAddr}
	bearer := append(append([]string(nil), curlConsole...), "-H", "Authorization: Bearer 0123456789abcdef")
	local := strings.TrimSuffix(s.page(deviceID), "/")

	for name, args := range map[string][]string{"http": {"-sS", "--max-time", "20", local + "/"}, "console": append(bearer, console+"/")} {
		if got := works(t, "curl", args...); !strings.Contains(got, "<p id=p>static") {
			t.Errorf("page by %s: %q", name, got)
		}
	}
	// The first events arrive while the stream stays open: curl ends by the limit.
	for name, args := range map[string][]string{"http": {local + "/events"}, "console": append(bearer[2:], console+"/events")} {
		out, err := tool(t, nil, "curl", append([]string{"-sSN", "--max-time", "3"}, args...)...)
		if !strings.Contains(out, "data: event 2\n") || err == nil {
			t.Errorf("events by %s: %q, %v", name, out, err)
		}
	}
	c, _, err := websocket.Dial(bounded(t), "ws"+strings.TrimPrefix(local, "http")+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"one", strings.Repeat("x", 20_000)} {
		if err := c.Write(bounded(t), websocket.MessageText, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if _, got, err := c.Read(bounded(t)); string(got) != text {
			t.Errorf("WebSocket: %d bytes, %v", len(got), err)
		}
	}
	_ = c.CloseNow()
	if _, resp, err := websocket.Dial(bounded(t), "ws"+strings.TrimPrefix(local, "http")+"/ws", &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {"http://evil.test"}}}); err == nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("WebSocket of another origin: %v", err)
	}

	// Nobody, a foreign Host, and a device that the rules do not give.
	for want, args := range map[string][]string{
		"401": append(curlConsole, console+"/"),
		"403": append(bearer, strings.Replace(console, deviceID, "gate", 1)+"/"),
		"421": {"-sS", "--max-time", "20", "-H", "Host: evil.test", local + "/"},
	} {
		if got := works(t, "curl", append([]string{"-o", "/dev/null", "-w", "%{http_code}"}, args...)...); got != want {
			t.Errorf("%q: %s, want %s", args, got, want)
		}
	}
	audit, err := os.ReadFile(s.file("audit"))
	s.write(err)
	contains(t, string(audit), `"who":"token:ci","action":"dial","device":"gate","target":"web"`, `"allowed":false,"rule":"no rule of authorization.operators (server.yaml:`,
		`"allowed":true,"rule":"authorization.operators[1] (server.yaml:`)
}

func TestReachWebPageInABrowser(t *testing.T) {
	t.Parallel()
	chromium := ""
	for _, name := range []string{"chromium", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil && chromium == "" {
			chromium = path
		}
	}
	if chromium == "" {
		missing(t, "chromium")
	}
	s := newSite(t).serve(true)
	startDevice(t, s, "--service", "web="+webApp(t))
	s.ready()
	url := s.page(deviceID)
	// The page's script changes it when its WebSocket has answered.
	dom := works(t, chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--user-data-dir="+s.file("chromium"),
		"--virtual-time-budget=10000", "--timeout=20000", "--dump-dom", url)
	contains(t, dom, "<title>pump</title>", "answered by websocket")
}

// A device's requests reach the origin behind the server, which is told the
// device; what the device says of itself does not arrive.
func TestReachRouteToldTheDevice(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.serveWith("routes:\n- {name: app, path: /, to: \"" + webApp(t) + "\"}\nauthorization:\n  devices:\n  - {who: [\"pump-*\"], routes: [app]}\n")
	d := startDevice(t, s, "--forward", "127.0.0.1:0=http")
	s.ready()
	base := "http://" + address(t, d, "msg=forwarding")
	got := strings.Split(works(t, "curl", "-sS", "--max-time", "20", "-H", "X-Device-Id: boss", "-H", "Client_cert: :AAAA:", "-H", "client-cert: :AAAA:", base+"/who"), "|")
	if len(got) != 3 || got[0] != deviceID || !strings.HasPrefix(got[1], ":MII") || got[2] != "" {
		t.Errorf("the origin is told %q", got)
	}
	resp, err := http.Get(base + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if line, err := bufio.NewReader(resp.Body).ReadString('\n'); line != "data: event 0\n" {
		t.Errorf("event %q, %v", line, err)
	}
	c, _, err := websocket.Dial(bounded(t), "ws"+strings.TrimPrefix(base, "http")+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.CloseNow() }()
	_ = c.Write(bounded(t), websocket.MessageText, []byte("up"))
	if _, got, err := c.Read(bounded(t)); string(got) != "up" {
		t.Errorf("WebSocket: %q, %v", got, err)
	}
}
