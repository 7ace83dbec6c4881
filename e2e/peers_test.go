//go:build e2e

package e2e

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/internal/child"
	"github.com/atls-ws/atls-ws/internal/pki"
	"github.com/atls-ws/atls-ws/server"
)

const blobSize = 1 << 20

// A foreign peer is a file of e2e/peers, in another language.
type peer struct {
	name    string
	scheme  string // of the URLs that it is given
	program func(t *testing.T) []string
	mux     bool     // it makes a session
	cause   []string // one of these is said when the server refuses its certificate
}

var peers = []peer{
	{name: "C, OpenSSL and libcurl", scheme: "https", program: curlPeer, cause: []string{"alert bad certificate", "alert unknown ca"}},
	{name: "Java, SSLEngine and WebSocket", scheme: "wss", program: javaPeer("Peer"), cause: []string{"bad_certificate", "unknown_ca"}},
	{name: "Python, yamux of its own", scheme: "wss", program: pythonPeer, mux: true, cause: []string{"alert bad certificate", "alert unknown ca"}},
}

// foreignServers take one device over POST and push a signal to it.
var foreignServers = []peer{
	{name: "C, OpenSSL", program: func(t *testing.T) []string {
		need(t, "gcc libc6-dev libssl-dev", "cc", "/usr/include/openssl/ssl.h")
		return []string{filepath.Join(build(t, "server", "cc", "-O1", "-Wall", "-Werror", "-o", "DIR/server", "peers/server.c", "-lssl", "-lcrypto", "-lpthread"), "server")}
	}, cause: []string{"unable to get local issuer certificate"}},
	{name: "Java, SSLEngine", program: javaPeer("PostServer"), cause: []string{"PKIX path"}},
}

// built makes each program once in a run of the tests.
var built sync.Map

func build(t *testing.T, what string, args ...string) string {
	t.Helper()
	dir := filepath.Join(filepath.Dir(exe), what)
	once, _ := built.LoadOrStore(what, sync.OnceValue(func() error {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		for i, a := range args {
			args[i] = strings.ReplaceAll(a, "DIR", dir)
		}
		cmd := exec.CommandContext(bounded(t), args[0], args[1:]...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%q: %w\n%s", args, err, out)
		}
		return nil
	}))
	if err := once.(func() error)(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// need finds a program and a file of a package; what is missing fails where CI
// is set.
func need(t *testing.T, pkg, program string, files ...string) {
	t.Helper()
	_, err := exec.LookPath(program)
	for _, f := range files {
		_, ferr := os.Stat(f)
		err = errors.Join(err, ferr)
	}
	if err == nil {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("%v: apt-get install %s", err, pkg)
	}
	t.Skipf("%v: apt-get install %s", err, pkg)
}

func curlPeer(t *testing.T) []string {
	need(t, "gcc libc6-dev libssl-dev", "cc", "/usr/include/openssl/ssl.h")
	if found, _ := filepath.Glob("/usr/include/*/curl/curl.h"); len(found) == 0 {
		need(t, "libcurl4-openssl-dev", "cc", "/usr/include/curl/curl.h")
	}
	return []string{filepath.Join(build(t, "curl", "cc", "-O1", "-Wall", "-Werror", "-o", "DIR/curl", "peers/curl.c", "-lcurl", "-lssl", "-lcrypto"), "curl")}
}

func javaPeer(class string) func(t *testing.T) []string {
	return func(t *testing.T) []string {
		need(t, "default-jdk-headless", "javac")
		dir := build(t, "java", "javac", "-d", "DIR", "peers/Peer.java", "peers/PostServer.java")
		return []string{"java", "-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", dir, class}
	}
}

func pythonPeer(t *testing.T) []string {
	need(t, "python3", "python3")
	return []string{"python3", "-B", "peers/mux.py"}
}

// servePeers starts the server with the services that foreign peers use.
func servePeers(t *testing.T) *site {
	t.Helper()
	s := newSite(t)
	services := fmt.Sprintf("services:\n  http: %s\n  echo: tcp://%s\n", blobStore(t), echoServer(t))
	return s.serve(true, "--config", writeConf(s, "server.yaml", services))
}

// blobStore keeps what is put there.
func blobStore(t *testing.T) string {
	var mu sync.Mutex
	var blob []byte
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.Method == http.MethodPut {
			var err error
			if blob, err = io.ReadAll(r.Body); err == nil {
				w.WriteHeader(http.StatusNoContent)
			}
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
		_, _ = w.Write(blob)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

func echoServer(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = ln.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = c.Close() }()
				_ = c.SetDeadline(time.Now().Add(patience))
				_, _ = io.Copy(c, c)
				_ = c.(*net.TCPConn).CloseWrite()
			})
		}
	})
	return ln.Addr().String()
}

// rogueServer has everything but a certificate of the right authority.
func rogueServer(t *testing.T, s *site) string {
	t.Helper()
	p, err := newCA(t, "Rogue CA").Server([]string{pki.ServerName}, 0)
	s.write(err)
	cert, err := p.TLS()
	s.write(err)
	srv, err := server.New(&server.Config{
		TLS:     &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: s.ca.Pool()},
		Handler: http.NotFoundHandler(),
	})
	s.write(err)
	web := httptest.NewTLSServer(srv)
	t.Cleanup(func() { _ = srv.Close(); web.Close() })
	return web.Listener.Addr().String()
}

// startPeer runs a peer. What it says on stdout and stderr is its log.
func (p peer) start(t *testing.T, s *site, rogue, proxy string) *child.Child {
	t.Helper()
	args := append(p.program(t), p.scheme+"://"+s.addr+path, p.scheme+"://"+rogue+path, s.cert("ca"), s.cert("device"), s.key("device"))
	if proxy != "" {
		args = append(args, proxy)
	}
	return start(t, p.name, exec.Command(args[0], args[1:]...))
}

func ended(t *testing.T, c *child.Child) {
	t.Helper()
	select {
	case <-c.Done():
	case <-bounded(t).Done():
		t.Fatalf("%s did not end\n%s", c.Name(), c.Tail(30))
	}
}

// TestForeignClients: each refuses a rogue server and then does a round trip of
// 1 MiB with the real one, directly and through a middlebox.
func TestForeignClients(t *testing.T) {
	for _, way := range []string{"direct", "mitmproxy"} {
		t.Run(way, func(t *testing.T) {
			s := servePeers(t)
			rogue := rogueServer(t, s)
			h := boxes[0].start(t, s, "")
			if way != "direct" {
				h = startMitmproxy(t, s, box{program: "mitmdump", pkg: "mitmproxy"}.find(t))
			}
			for _, p := range peers {
				t.Run(p.name, func(t *testing.T) {
					c := p.start(t, s, rogue, h.proxy)
					if p.mux {
						await(t, c, "ready", deviceID)
						s.ready()
						ack := must(t, strings.NewReader("hello pump"), "push", "--admin", s.admin(), deviceID, "display", "-")
						if strings.TrimSpace(string(ack)) != "showing: hello pump" {
							t.Errorf("ack %q", ack)
						}
						sent := pseudoRandom(3)[:blobSize]
						back := must(t, bytes.NewReader(sent), "dial", "--admin", s.admin(), deviceID, "echo")
						if sha256.Sum256(back) != sha256.Sum256(sent) {
							t.Errorf("%d bytes came back, want %d with the same sum", len(back), len(sent))
						}
					}
					ended(t, c)
					if c.ExitCode() != 0 {
						t.Errorf("exit %d", c.ExitCode())
					}
					contains(t, c.Log(), "rogue refused", fmt.Sprintf("verified %d bytes, sha256 ", blobSize))
				})
			}
		})
	}
}

// TestForeignClientIsRefused: a certificate of another authority is refused, and
// both sides say why.
func TestForeignClientIsRefused(t *testing.T) {
	s := servePeers(t)
	rogue := rogueServer(t, s)
	s.pair("device")(newCA(t, "Other CA").Device(deviceID, 0))
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			c := p.start(t, s, rogue, "")
			ended(t, c)
			said := false
			for _, word := range p.cause {
				said = said || strings.Contains(c.Log(), word)
			}
			if c.ExitCode() != 1 || !said {
				t.Errorf("exit %d, want 1 and one of %q in\n%s", c.ExitCode(), p.cause, c.Log())
			}
			await(t, s.server, "inner handshake", "certificate signed by unknown authority")
		})
	}
}

// TestForeignServers: the device's program makes a session with a server of
// another TLS stack and acks its signal; each refuses a stranger.
func TestForeignServers(t *testing.T) {
	other := newCA(t, "Other CA")
	for _, p := range foreignServers {
		t.Run(p.name, func(t *testing.T) {
			s := newSite(t)
			serve := func(name string) (c *child.Child, device []string) {
				args := append(p.program(t), s.cert("ca"), s.cert(name), s.key(name))
				c = start(t, name+" in "+p.name, exec.Command(args[0], args[1:]...))
				m := logAddr.FindStringSubmatch(await(t, c, "listening", "addr="))
				return c, s.deviceArgs("http://"+m[1]+path, "--once", "--carrier", "post", "--on", "display=sh "+handler(s))
			}
			foreign, device := serve("server")
			c := start(t, "device", exec.Command(exe, device...))
			await(t, c, "session ready", "device="+deviceID)
			await(t, foreign, "hello of "+deviceID)
			await(t, foreign, "ack 0: showing: hello pump")
			c.Stop(grace)
			await(t, foreign, "the device has gone")

			s.pair("device")(other.Device(deviceID, 0))
			run(t, nil, device...).fails(t, 1, "peer refused")
			await(t, foreign, "refused: ", p.cause[0])

			s.pair("device")(s.ca.Device(deviceID, 0))
			s.pair("rogue")(other.Server(nil, 0))
			rogue, device := serve("rogue")
			run(t, nil, device...).fails(t, 1, "inner handshake", "certificate signed by unknown authority")
			await(t, rogue, "refused: ")
		})
	}
}
