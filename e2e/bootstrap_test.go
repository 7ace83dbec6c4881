//go:build e2e

package e2e

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// anchorFiles are where the boxes that intercept keep their CA.
var anchorFiles = map[string][]string{
	"mitmproxy": {"mitmproxy", "mitmproxy-ca-cert.pem"},
	"squid":     {"squid", "ca.pem"},
}

// httpsPage is an ordinary web server, which has nothing to do with the service.
func httpsPage(t *testing.T, s *site) string {
	t.Helper()
	pair, err := s.outer.Server([]string{"localhost"}, 0)
	s.write(err)
	cert, err := pair.TLS()
	s.write(err)
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "an ordinary page") }))
	web.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	web.StartTLS()
	t.Cleanup(web.Close)
	u, err := url.Parse(web.URL)
	s.write(err)
	return "https://localhost:" + u.Port() + "/"
}

func curl(t *testing.T, args ...string) (string, int) {
	t.Helper()
	out, err := exec.CommandContext(bounded(t), "curl", append([]string{"--silent", "--show-error", "--fail"}, args...)...).CombinedOutput()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return string(out), exit.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(out), 0
}

// serveAnchors starts the server on s.addr, with a set that has a name and a file.
func (s *site) serveAnchors(name, file string) {
	s.t.Helper()
	conf := writeConf(s, "server.yaml", fmt.Sprintf(`
listen: %s
outer: {cert: %s, key: %s}
inner: {cert: %s, key: %s, client_ca: %s}
admin: %s
anchors: {%s: %s}
`, s.addr, s.cert("outer"), s.key("outer"), s.cert("server"), s.key("server"), s.cert("ca"), s.admin(), name, file))
	s.server = start(s.t, "server", exec.Command(exe, "server", "--config", conf))
	await(s.t, s.server, "listening")
}

// TestBootstrapMakesCurlWorkThroughRealBoxes ends with an ordinary client on the
// device that trusts the network, because the service's operator said so.
func TestBootstrapMakesCurlWorkThroughRealBoxes(t *testing.T) {
	for _, b := range boxes {
		file := anchorFiles[b.name]
		if file == nil {
			continue
		}
		t.Run(b.name, func(t *testing.T) {
			program := b.find(t)
			s := newSite(t)
			s.addr = "127.0.0.1:" + freePort(t)
			h := b.start(t, s, program)
			page, bundle := httpsPage(t, s), s.file("bundle.pem")
			if out, code := curl(t, "--proxy", h.proxy, page); code != 60 {
				t.Fatalf("before: curl exits with %d: %s", code, out)
			}
			verb := s.deviceArgs(strings.Replace(h.url, "127.0.0.1", "localhost", 1), "--proxy", h.proxy, "--out", bundle)
			verb[0] = "bootstrap"

			// A set of another network does not help.
			s.serveAnchors("elsewhere", s.cert("ca"))
			run(t, nil, verb...).fails(t, 1, "no trust anchors for this network", "issued by", h.issuer, "operator")
			if _, err := os.Stat(bundle); err == nil {
				t.Error("a bundle was written")
			}
			s.server.Stop(grace)

			// A device that waits for the service gets its bundle when that comes.
			waiting := start(t, "bootstrap", exec.Command(exe, append(verb, "--interval", "1s")...))
			await(t, waiting, "bundle not refreshed", "next=")
			s.serveAnchors("plant", s.file(file...))
			await(t, waiting, "bundle refreshed", "changed=true", "anchors=1")
			waiting.Stop(grace)
			await(t, s.server, "anchors served", "set=plant", "device="+deviceID)

			if out, code := curl(t, "--cacert", bundle, "--proxy", h.proxy, page); code != 0 || out != "an ordinary page" {
				t.Errorf("after: curl exits with %d: %s", code, out)
			}
			var again struct {
				Known   bool `json:"verified_before"`
				Changed bool `json:"changed"`
				Anchors []struct{ Subject string }
			}
			if err := json.Unmarshal(must(t, nil, append(verb, "--json")...), &again); err != nil {
				t.Fatal(err)
			}
			if !again.Known || again.Changed || len(again.Anchors) != 1 || !strings.Contains(again.Anchors[0].Subject, h.issuer) {
				t.Errorf("again: %+v", again)
			}
			contains(t, string(must(t, nil, verb...)), "met:", h.issuer, "unchanged: "+bundle, "sha256", "checked:")

			start(t, "device", exec.Command(exe, s.deviceArgs(verb[2], "--proxy", h.proxy, "--outer-roots", bundle)...))
			if d := s.ready(); !d.Outer.Verified || !d.Outer.Intercepted {
				t.Errorf("the device with the bundle: %+v", d.Outer)
			}
		})
	}
}
