//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/atls-ws/atls-ws/internal/child"
)

// devtools drives a page of a browser, over its DevTools protocol.
type devtools struct {
	t  *testing.T
	ws *websocket.Conn
	id int
	in string // the session of the page
}

// startDevtools starts a browser with an empty page.
func startDevtools(t *testing.T, args ...string) *devtools {
	t.Helper()
	chromium := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil && chromium == "" {
			chromium = path
		}
	}
	if chromium == "" {
		missing(t, "chromium")
	}
	c := start(t, "chromium", exec.Command(chromium, append([]string{"--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server", "--remote-debugging-port=0", "--user-data-dir=" + t.TempDir()}, args...)...))
	d := dialDevtools(t, c)
	var target struct{ TargetID string }
	d.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	d.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	d.in = attached.SessionID
	return d
}

func dialDevtools(t *testing.T, c *child.Child) *devtools {
	t.Helper()
	line := await(t, c, "DevTools listening on")
	ws, _, err := websocket.Dial(bounded(t), strings.TrimSpace(line[strings.Index(line, "ws://"):]), nil)
	if err != nil {
		t.Fatal(err)
	}
	ws.SetReadLimit(16 << 20)
	t.Cleanup(func() { _ = ws.CloseNow() })
	return &devtools{t: t, ws: ws}
}

// call asks and waits for the answer; events are passed over.
func (d *devtools) call(method string, params, out any) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	d.id++
	request, _ := json.Marshal(map[string]any{"id": d.id, "method": method, "params": params, "sessionId": d.in})
	if d.in == "" {
		request, _ = json.Marshal(map[string]any{"id": d.id, "method": method, "params": params})
	}
	if err := d.ws.Write(ctx, websocket.MessageText, request); err != nil {
		d.t.Fatal(err)
	}
	for {
		_, data, err := d.ws.Read(ctx)
		if err != nil {
			d.t.Fatalf("%s: %v", method, err)
		}
		var answer struct {
			ID     int
			Result json.RawMessage
			Error  *struct{ Message string }
		}
		if err := json.Unmarshal(data, &answer); err != nil || answer.ID != d.id {
			continue
		}
		if answer.Error != nil && method == "Runtime.evaluate" && strings.Contains(answer.Error.Message, "navigated") {
			return // the page went on while it was asked, as a click makes it
		}
		if answer.Error != nil {
			d.t.Fatalf("%s: %s", method, answer.Error.Message)
		}
		if out != nil {
			d.t.Helper()
			if err := json.Unmarshal(answer.Result, out); err != nil {
				d.t.Fatal(err)
			}
		}
		return
	}
}

// eval gives the value of an expression in the page, as text.
func (d *devtools) eval(expression string) string {
	d.t.Helper()
	var out struct {
		Result struct{ Value any }
	}
	d.call("Runtime.evaluate", map[string]any{"expression": "String(" + expression + ")"}, &out)
	text, _ := out.Result.Value.(string)
	return text
}

// until waits for the page to show a text.
func (d *devtools) until(text string) string {
	d.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		body := d.eval("document.body ? document.body.innerText : ''")
		if strings.Contains(body, text) {
			return body
		}
		if time.Now().After(end) {
			d.t.Fatalf("the page does not say %q:\n%s", text, body)
		}
	}
}

// An operator logs in, sees the fleet, and pushes a signal with the form.
func TestReachFleetPageInABrowser(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.serveWith(strings.Replace(consoleYAML(s), "may: [dial]", "may: [list, signal]", 1))
	startDevice(t, s, "--on", `greet=echo "hello $(cat)"`)
	s.ready()
	_, port, err := net.SplitHostPort(address(t, s.server, "msg=console"))
	s.write(err)
	d := startDevtools(t, "--ignore-certificate-errors", "--host-resolver-rules=MAP device.test 127.0.0.1")
	fleet := "https://device.test:" + port + "/"
	d.call("Page.navigate", map[string]any{"url": fleet}, nil)
	d.until("Token")
	d.eval(`(document.querySelector("[name=token]").value = "0123456789abcdef", document.querySelector("button").click())`)
	body := d.until("Devices")
	contains(t, body, deviceID, "token:ci", "websocket", "On the way")
	if n := d.eval("document.scripts.length"); n != "0" {
		t.Errorf("%s scripts in the page", n)
	}
	d.eval(`(document.querySelector("[name=target]").value = "` + deviceID + `", document.querySelector("#push [name=name]").value = "greet",
		document.querySelector("[name=data]").value = "<i>browser</i>", document.querySelector("#push button").click())`)
	contains(t, d.until("hello <i>browser</i>"), "acked")
	// Without leave for another device, the form says so.
	d.call("Page.navigate", map[string]any{"url": fleet}, nil)
	d.until("Devices")
	d.eval(`(document.querySelector("[name=target]").value = "gate", document.querySelector("#push [name=name]").value = "open", document.querySelector("#push button").click())`)
	d.until("do not let token:ci do this")
	// A form of another site arrives without leave.
	d.call("Page.navigate", map[string]any{"url": "data:text/html,<form method=post action='" + fleet + "push'><input name=to value=all><input name=name value=evil></form><script>document.forms[0].submit()</script>"}, nil)
	body = d.until("operator")
	if strings.Contains(string(must(t, nil, "signals", "ls", "--admin", s.admin())), "evil") {
		t.Errorf("another site has pushed a signal:\n%s", body)
	}
}
