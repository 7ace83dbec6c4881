//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/internal/child"
	"github.com/atls-ws/atls-ws/internal/pki"
)

const (
	deviceID = "pump-7"
	patience = 60 * time.Second // for anything to happen; nothing asserts that it was quick
	grace    = 10 * time.Second // for a process to end by itself
	path     = "/.well-known/atls"
	mark     = "ATLS_E2E_MARK" // an environment variable that finds what a process left
)

// exe is the binary under test.
var exe string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "atls-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	exe = filepath.Join(dir, "atls-ws")
	build := exec.Command("go", "build", "-o", exe, "../cmd/atls-ws")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building atls-ws: %v\n%s", err, out)
		return 1
	}
	for _, v := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy", "ATLS_WS_PROXY", "ATLS_WS_ADMIN"} {
		_ = os.Unsetenv(v)
	}
	_ = os.Setenv(mark, filepath.Base(dir))
	code := m.Run()
	if left := marked(filepath.Base(dir)); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "processes left: %q\n", left)
		return 1
	}
	return code
}

// marked lists the processes, other than this one, that inherited the mark.
func marked(value string) (left []string) {
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, f := range environs {
		pid := filepath.Base(filepath.Dir(f))
		env, err := os.ReadFile(f)
		if err != nil || pid == fmt.Sprint(os.Getpid()) {
			continue
		}
		for _, v := range strings.Split(string(env), "\x00") {
			if v == mark+"="+value {
				line, _ := os.ReadFile(filepath.Join(filepath.Dir(f), "cmdline"))
				left = append(left, pid+" "+strings.ReplaceAll(string(line), "\x00", " "))
			}
		}
	}
	return left
}

// bounded is a context for everything that could hang.
func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// start runs a process until the test ends, and shows its log on failure.
func start(t *testing.T, name string, cmd *exec.Cmd) *child.Child {
	t.Helper()
	c, err := child.Start(name, cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Stop(grace)
		if t.Failed() {
			t.Log(c.Tail(30))
		}
	})
	return c
}

// await fails the test unless the process says a line with the texts.
func await(t *testing.T, c *child.Child, texts ...string) string {
	t.Helper()
	line, err := c.Await(bounded(t), texts...)
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// result is how a command that ended by itself did so.
type result struct {
	stdout []byte
	stderr string
	code   int
}

// run runs a verb to its end.
func run(t *testing.T, stdin io.Reader, args ...string) result {
	t.Helper()
	return runEnv(t, stdin, nil, args...)
}

// runEnv is run with more environment variables.
func runEnv(t *testing.T, stdin io.Reader, env []string, args ...string) result {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin, cmd.Stdout = stdin, &out
	c, err := child.Start(args[0], cmd)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.Done():
	case <-bounded(t).Done():
		c.Stop(grace)
		t.Fatalf("atls-ws %s did not end\n%s", strings.Join(args, " "), c.Tail(30))
	}
	return result{out.Bytes(), c.Log(), c.ExitCode()}
}

// must is run for what has to succeed.
func must(t *testing.T, stdin io.Reader, args ...string) []byte {
	t.Helper()
	r := run(t, stdin, args...)
	if r.code != 0 {
		t.Fatalf("atls-ws %s: exit %d\n%s", strings.Join(args, " "), r.code, r.stderr)
	}
	return r.stdout
}

// fails asserts an exit code, words of the message and the line with the next step.
func (r result) fails(t *testing.T, code int, words ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit %d, want %d", r.code, code)
	}
	contains(t, r.stderr, append(words, "next:")...)
}

// contains asserts that the text has all the words, in any case.
func contains(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(strings.ToLower(text), strings.ToLower(w)) {
			t.Errorf("%q is not said in:\n%s", w, text)
		}
	}
}

// site is a PKI and the server that uses it.
type site struct {
	t     *testing.T
	dir   string // world-readable: boxes change their user
	ca    *pki.CA
	outer *pki.CA // of the server's own HTTPS certificate

	server *child.Child
	listen string // "" for a free port
	addr   string
}

// newSite makes the PKI; the server is not started.
func newSite(t *testing.T) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "atls-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, dir: dir, ca: newCA(t, "Inner CA"), outer: newCA(t, "Outer CA")}
	s.write(s.ca.Write(s.file("pki"), false))
	s.pair("server")(s.ca.Server(nil, 0))
	s.pair("outer")(s.outer.Server([]string{"localhost", "127.0.0.1"}, 0))
	s.pair("device")(s.ca.Device(deviceID, 0))
	return s
}

func newCA(t *testing.T, name string) *pki.CA {
	t.Helper()
	ca, err := pki.NewCA(name)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func (s *site) write(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// pair writes what an authority issued under a name.
func (s *site) pair(name string) func(*pki.Pair, error) {
	return func(p *pki.Pair, err error) {
		s.t.Helper()
		s.write(err)
		s.write(p.Write(s.file("pki"), name, true))
	}
}

func (s *site) file(name ...string) string { return filepath.Join(append([]string{s.dir}, name...)...) }
func (s *site) cert(name string) string    { return pki.CertPath(s.file("pki"), name) }
func (s *site) key(name string) string     { return pki.KeyPath(s.file("pki"), name) }
func (s *site) admin() string              { return s.file("admin.sock") }

var logAddr = regexp.MustCompile(`\baddr="?([^" ]+)`)

// serverArgs start a server.
func (s *site) serverArgs(outerTLS bool) []string {
	listen := s.listen
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	args := []string{"server", "--listen", listen, "--inner-cert", s.cert("server"), "--inner-key", s.key("server"),
		"--client-ca", s.cert("ca"), "--admin", s.admin(), "--data", s.file("data")}
	if outerTLS {
		args = append(args, "--outer-cert", s.cert("outer"), "--outer-key", s.key("outer"))
	}
	return args
}

// serve starts the server: with TLS of its own, or plain behind a terminator.
func (s *site) serve(outerTLS bool, more ...string) *site {
	s.t.Helper()
	s.server = start(s.t, "server", exec.Command(exe, append(s.serverArgs(outerTLS), more...)...))
	m := logAddr.FindStringSubmatch(await(s.t, s.server, "listening", "addr="))
	if m == nil {
		s.t.Fatal("no address in the server's log line")
	}
	s.addr = m[1]
	return s
}

// deviceArgs connect to url with the site's certificates.
func (s *site) deviceArgs(url string, more ...string) []string {
	return append([]string{"device", "--url", url, "--cert", s.cert("device"), "--key", s.key("device"), "--ca", s.cert("ca")}, more...)
}

// ports are below those that the system gives away by itself: a port that
// freePort has found stays free until the box has started.
var ports atomic.Uint32

// freePort is a loopback port for a box that cannot choose one by itself.
func freePort(t *testing.T) string {
	t.Helper()
	const first, number = 12000, 18000
	for range number {
		port := fmt.Sprint(first + (uint32(os.Getpid()*131)+ports.Add(1))%number)
		ln, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err == nil {
			_ = ln.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return ""
}

// listening waits until a box takes connections.
func listening(t *testing.T, c *child.Child, port string) {
	t.Helper()
	ctx := bounded(t)
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", "127.0.0.1:"+port)
		if err == nil {
			_ = conn.Close()
			return
		}
		select {
		case <-c.Done():
			t.Fatalf("%s ended (exit %d) before it listened", c.Name(), c.ExitCode())
		case <-ctx.Done():
			t.Fatalf("%s does not listen: %v", c.Name(), errors.Join(err, ctx.Err()))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// startDevice connects a device directly.
func startDevice(t *testing.T, s *site, more ...string) *child.Child {
	t.Helper()
	return start(t, "device", exec.Command(exe, s.deviceArgs("wss://"+s.addr+path, more...)...))
}
