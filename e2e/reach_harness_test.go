//go:build e2e

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/atls-ws/atls-ws/internal/child"
)

// program finds a program of .ci/apt.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, name)
	}
	return path
}

// missing skips a test, except where everything has to run.
func missing(t *testing.T, name string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is not installed: run .ci/apt", name)
	}
	t.Skipf("%s is not installed: .ci/apt does it", name)
}

// serveWith starts the server with a configuration beside its flags.
func (s *site) serveWith(yaml string) *site {
	s.t.Helper()
	s.write(os.WriteFile(s.file("server.yaml"), []byte(yaml), 0o600))
	s.server = start(s.t, "server", exec.Command(exe, append(s.serverArgs(true), "--config", s.file("server.yaml"))...))
	s.addr = address(s.t, s.server, "listening")
	return s
}

// address finds the address in a line of a log.
func address(t *testing.T, c *child.Child, words ...string) string {
	t.Helper()
	m := logAddr.FindStringSubmatch(await(t, c, append(words, "addr=")...))
	if m == nil {
		t.Fatalf("no address in the log of %s", c.Name())
	}
	return m[1]
}

// forwarded starts atls-ws forward and returns its address.
func (s *site) forwarded(args ...string) string {
	s.t.Helper()
	c := start(s.t, "forward", exec.Command(exe, append([]string{"forward", "--admin", s.admin()}, args...)...))
	return address(s.t, c, "forwarding")
}

// page starts atls-ws http and returns the URL.
func (s *site) page(args ...string) string {
	s.t.Helper()
	c := start(s.t, "http", exec.Command(exe, append([]string{"http", "--admin", s.admin()}, args...)...))
	return strings.TrimSpace(await(s.t, c, "http://"))
}

// tool runs a foreign program to its end and returns its output.
func tool(t *testing.T, env []string, name string, args ...string) (stdout string, err error) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout = &out
	c, err := child.Start(name, cmd)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.Done():
	case <-bounded(t).Done():
		c.Stop(grace)
		t.Fatalf("%s %q did not end\n%s", name, args, c.Tail(30))
	}
	if c.ExitCode() != 0 {
		return out.String(), errors.New(strings.TrimSpace(c.Log()))
	}
	return out.String(), nil
}

// works is tool for what has to succeed.
func works(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := tool(t, nil, name, args...)
	if err != nil {
		t.Fatalf("%s %q: %v", name, args, err)
	}
	return out
}

// webApp is a web server as a device has it: a page, server-sent events, and a
// WebSocket that echoes.
func webApp(t *testing.T) (url string) {
	m := http.NewServeMux()
	m.HandleFunc("/{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = fmt.Fprintf(w, `<!doctype html><title>pump</title><p id=p>static</p><script>
			const ws = new WebSocket("ws://" + location.host + "/ws")
			ws.onopen = () => ws.send("by websocket")
			ws.onmessage = e => document.getElementById("p").textContent = "answered " + e.data
		</script>`)
	})
	m.HandleFunc("/who", func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "%s|%s|%s", r.Header.Get("X-Device-Id"), r.Header.Get("Client-Cert"), r.Header.Get("Client_cert"))
	})
	m.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for n := 0; ; n++ { // to the end of the connection
			if _, err := fmt.Fprintf(w, "data: event %d\n\n", n); err != nil {
				return
			}
			if http.NewResponseController(w).Flush() != nil {
				return
			}
			if n >= 2 {
				<-r.Context().Done() // a proxy that waits for more shows nothing
				return
			}
		}
	})
	m.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer func() { _ = c.CloseNow() }()
		for {
			typ, data, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if c.Write(r.Context(), typ, data) != nil {
				return
			}
		}
	})
	srv := httptest.NewServer(m)
	t.Cleanup(srv.CloseClientConnections)
	t.Cleanup(srv.Close)
	return srv.URL
}

// echoService is a TCP service that sends back what comes.
func echoService(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				buf := make([]byte, 32<<10)
				for {
					n, err := c.Read(buf)
					if n > 0 {
						if _, err := c.Write(buf[:n]); err != nil {
							break
						}
					}
					if err != nil {
						break
					}
				}
				_ = c.Close()
			}()
		}
	}()
	return l.Addr().String()
}
