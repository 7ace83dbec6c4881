//go:build e2e

package e2e

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/wsconn"
)

// TestDeviceSaysWhatAnsweredInstead: everything that is not an atls-ws server.
func TestDeviceSaysWhatAnsweredInstead(t *testing.T) {
	status := func(code int, kind, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(code)
			_, _ = io.WriteString(w, body)
		}
	}
	for _, tc := range []struct {
		name    string
		handler http.HandlerFunc
		words   []string
	}{
		{"404", status(404, "text/plain", "no such page"), []string{"404"}},
		{"426", status(426, "text/plain", "upgrade required"), []string{"426"}},
		{"502", status(502, "text/html", "<h1>Bad Gateway</h1>"), []string{"502"}},
		{"HTML of a captive portal", status(200, "text/html", "<html>please log in</html>"), []string{"200"}},
		{"101 then silence", func(w http.ResponseWriter, r *http.Request) {
			silent(w, r, wsconn.Subprotocol)
		}, []string{"inner handshake", "deadline exceeded"}},
		{"another subprotocol", func(w http.ResponseWriter, r *http.Request) {
			silent(w, r, "chat")
		}, []string{"subprotocol", "chat"}},
		{"garbage instead of the inner handshake", func(w http.ResponseWriter, r *http.Request) {
			c, err := wsconn.Accept(w, r, nil)
			if err != nil {
				return
			}
			defer func() { _ = c.Close() }()
			_, _ = io.WriteString(c, "<html>this is no TLS record</html>")
			_, _ = io.Copy(io.Discard, c)
		}, []string{"inner handshake", "TLS"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			srv := httptest.NewTLSServer(tc.handler)
			t.Cleanup(srv.Close)
			r := run(t, nil, s.deviceArgs("wss://"+srv.Listener.Addr().String()+path, "--once")...)
			r.fails(t, 1, tc.words...)
		})
	}
}

// silent upgrades to a WebSocket with the subprotocol and says nothing more.
func silent(w http.ResponseWriter, r *http.Request, subprotocol string) {
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer func() { _ = c.Close() }()
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	_, _ = fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\nSec-WebSocket-Protocol: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:]), subprotocol)
	_ = c.SetDeadline(time.Now().Add(2 * patience))
	_, _ = io.Copy(io.Discard, rw)
}

func TestDeviceSaysUnreachable(t *testing.T) {
	s := newSite(t)
	run(t, nil, s.deviceArgs("wss://127.0.0.1:"+freePort(t)+path, "--once")...).fails(t, 1, "connection refused")
	run(t, nil, s.deviceArgs("wss://no-such-host.invalid"+path, "--once")...).fails(t, 1, "no-such-host.invalid")
	run(t, nil, s.deviceArgs("wss://127.0.0.1:1"+path, "--once", "--proxy", "http://127.0.0.1:"+freePort(t))...).fails(t, 1, "connection refused", "proxy")
}

func TestHelloOver16KiBIsRefused(t *testing.T) {
	s := newSite(t).serve(true)
	ctx := bounded(t)
	c := s.innerDial(ctx)
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(binary.BigEndian.AppendUint32(nil, 16385)); err != nil {
		t.Fatal(err)
	}
	answer, _ := io.ReadAll(c) // a refusal, then the end
	contains(t, string(answer), "refused", "16385")
	await(t, s.server, "hello", "16385")
}

func TestGarbageAtTheServerIsRefused(t *testing.T) {
	s := newSite(t).serve(false)
	c, err := wsconn.Dial(bounded(t), "ws://"+s.addr+path, nil)
	s.write(err)
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(patience))
	_, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: no inner TLS\r\n\r\n")
	s.write(err)
	_, _ = io.Copy(io.Discard, c) // ends
	await(t, s.server, "inner handshake", "does not look like a TLS handshake")
}

func TestPlainGetIsToldToUpgrade(t *testing.T) {
	s := newSite(t).serve(false)
	c, err := net.Dial("tcp", s.addr)
	s.write(err)
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(patience))
	_, _ = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	s.write(err)
	if resp.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("status %s, want 426", resp.Status)
	}
}

// TestConfigurationErrorsNameThemselves: nothing runs, everything is said.
func TestConfigurationErrorsNameThemselves(t *testing.T) {
	s := newSite(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	s.write(err)
	defer func() { _ = taken.Close() }()
	bad := writeConf(s, "bad.yaml", "url: wss://127.0.0.1/\nno_such_key: 1\n")
	for _, tc := range []struct {
		name  string
		code  int
		args  []string
		words []string
	}{
		{"unknown key of a device", 1, []string{"device", "--config", bad, "--check"}, []string{"no_such_key", "bad.yaml:2"}},
		{"unknown key of a server", 1, []string{"server", "--config", bad, "--check"}, []string{"no_such_key", "bad.yaml:2"}},
		{"missing configuration", 1, []string{"device", "--config", s.file("absent.yaml")}, []string{"absent.yaml"}},
		{"missing key of a device", 1, replace(s.deviceArgs("wss://127.0.0.1/", "--once"), s.key("device"), s.file("absent.pem")), []string{"absent.pem"}},
		{"missing key of a server", 1, replace(s.serverArgs(true), s.key("server"), s.file("absent.pem")), []string{"absent.pem"}},
		{"key of another certificate", 1, replace(s.serverArgs(true), s.key("server"), s.key("outer")), []string{"outer-key.pem"}},
		{"port taken", 1, replace(s.serverArgs(true), "127.0.0.1:0", taken.Addr().String()), []string{taken.Addr().String(), "taken by another program"}},
		{"unknown flag", 2, []string{"device", "--no-such-flag"}, []string{"no-such-flag"}},
		{"no server to push to", 1, []string{"push", "--admin", s.file("absent.sock"), deviceID, "x"}, []string{"absent.sock"}},
		{"push without a name", 2, []string{"push", "--admin", s.file("absent.sock"), deviceID}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) { run(t, nil, tc.args...).fails(t, tc.code, tc.words...) })
	}
	if _, err := os.Stat(s.admin()); err == nil {
		t.Error("a server that did not start left its admin socket")
	}
}

func replace(args []string, from, to string) []string {
	out := append([]string(nil), args...)
	for i, a := range out {
		if a == from {
			out[i] = to
		}
	}
	return out
}

// TestPushSaysWhyNot: to a device that is not there, and by a handler that refuses.
func TestPushSaysWhyNot(t *testing.T) {
	s := newSite(t).serve(true)
	run(t, nil, "push", "--admin", s.admin(), "nobody", "x").fails(t, 1, "nobody", "queued: the device has never been connected")
	run(t, nil, "dial", "--admin", s.admin(), "nobody", "web").fails(t, 1, "nobody", "not connected")
	startDevice(t, s, "--on", "display=sh "+refuser(s))
	s.ready()
	run(t, strings.NewReader("x"), "push", "--admin", s.admin(), deviceID, "display", "-").fails(t, 1, "the display is broken")
	run(t, nil, "push", "--admin", s.admin(), deviceID, "other").fails(t, 1, "other")
	run(t, strings.NewReader(""), "dial", "--admin", s.admin(), deviceID, "ssh").fails(t, 1, "ssh")
}

func refuser(s *site) string {
	s.write(os.WriteFile(s.file("refuse.sh"), []byte("cat >/dev/null\necho some output\necho the display is broken >&2\nexit 3\n"), 0o755))
	return s.file("refuse.sh")
}
