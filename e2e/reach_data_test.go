//go:build e2e

package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

func bulkBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(b)
	return b
}

func TestReachDNSOverUDP(t *testing.T) {
	t.Parallel()
	dig := program(t, "dig")
	s := newSite(t).serve(true)
	startDevice(t, s, "--service", "dns=udp://"+dnsServer(t))
	s.ready()
	host, port, _ := net.SplitHostPort(s.forwarded("udp:127.0.0.1:0", deviceID, "dns"))
	for range 3 { // each dig is a flow of its own
		if got := works(t, dig, "@"+host, "-p", port, "+short", "+tries=1", "+time=20", "+notcp", "+bufsize=4096", "pump.test", "TXT"); len(got) < 1900 || !strings.HasPrefix(got, `"pump`) {
			t.Errorf("answer of %d bytes: %.60q", len(got), got)
		}
	}
}

// dnsServer answers every question with a TXT of 2000 bytes, over UDP.
func dnsServer(t *testing.T) string {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Close() })
	go func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			texts := slices.Repeat([]string{"pump" + strings.Repeat("x", 196)}, 10)
			answer := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, Authoritative: true}, Questions: m.Questions, Answers: []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: 1}, Body: &dnsmessage.TXTResource{TXT: texts}}}}
			if packed, err := answer.Pack(); err == nil {
				_, _ = pc.WriteTo(packed, from)
			}
		}
	}()
	return pc.LocalAddr().String()
}

func TestReachPostgreSQL(t *testing.T) {
	t.Parallel()
	psql := program(t, "psql")
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		missing(t, "postgresql")
	}
	bin := filepath.Dir(found[len(found)-1])
	s := newSite(t).serve(true)
	data := s.file("pg")
	s.write(os.Mkdir(data, 0o700))
	attr := &syscall.SysProcAttr{}
	if os.Getuid() == 0 { // it refuses to be root
		u, err := user.Lookup("postgres")
		s.write(err)
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		s.write(os.Chown(data, uid, gid))
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	asUser := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(bin, name), args...)
		a := *attr
		cmd.SysProcAttr, cmd.Dir = &a, data
		return cmd
	}
	if out, err := asUser("initdb", "-D", data, "-U", "pump", "--auth=trust", "--no-sync", "--no-instructions", "-E", "UTF8", "--locale=C").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	port := freePort(t)
	pg := start(t, "postgres", asUser("postgres", "-D", data, "-p", port, "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off"))
	await(t, pg, "ready to accept connections")
	startDevice(t, s, "--service", "db=tcp://127.0.0.1:"+port)
	s.ready()
	host, local, _ := net.SplitHostPort(s.forwarded("127.0.0.1:0", deviceID, "db"))
	got := works(t, psql, "-h", host, "-p", local, "-U", "pump", "-d", "postgres", "-X", "-A", "-t", "-c", "select sum(g), md5(string_agg(g::text, ',')) from generate_series(1, 200000) g")
	if !strings.HasPrefix(got, "20000100000|") {
		t.Errorf("psql: %q", got)
	}
	// A COPY of some megabytes each way, which is what backpressure is for.
	got = works(t, psql, "-h", host, "-p", local, "-U", "pump", "-d", "postgres", "-X", "-A", "-t", "-c", "copy (select repeat('x', 1000) from generate_series(1, 20000)) to stdout")
	if len(got) != 20000*1001 {
		t.Errorf("copy: %d bytes", len(got))
	}
}

// A signal and an echo do not wait for a bulk copy beside them.
func TestReachSignalAndEchoBesideABulkCopy(t *testing.T) {
	t.Parallel()
	s := newSite(t).serve(true)
	const size = 256 << 20
	sum := make(chan [sha256.Size]byte, 1)
	startDevice(t, s, "--service", "bulk=tcp://"+bulkService(t, sum, []byte("taken")), "--service", "echo=tcp://"+echoService(t), "--on", "ping=echo pong")
	s.ready()
	to := s.forwarded("127.0.0.1:0", deviceID, "bulk")
	echo, err := net.Dial("tcp", s.forwarded("127.0.0.1:0", deviceID, "echo"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = echo.Close() }()
	_ = echo.SetDeadline(time.Now().Add(patience))
	bulk, err := net.Dial("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = bulk.Close() }()
	_ = bulk.SetDeadline(time.Now().Add(patience))
	h := sha256.New()
	copied := make(chan error, 1)
	begun := make(chan struct{})
	go func() {
		chunk := bulkBytes(1 << 20)
		for i := range size / len(chunk) {
			if i == 8 {
				close(begun)
			}
			h.Write(chunk)
			if _, err := bulk.Write(chunk); err != nil {
				copied <- err
				return
			}
		}
		copied <- bulk.(*net.TCPConn).CloseWrite()
	}()
	<-begun
	var waits, acks []time.Duration
	for busy := true; busy; {
		select {
		case err := <-copied:
			s.write(err)
			busy = false
			continue
		default:
		}
		started := time.Now()
		if _, err := echo.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(echo, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		waits = append(waits, time.Since(started))
		if len(acks) < 3 {
			started = time.Now()
			if got := must(t, nil, "push", "--admin", s.admin(), deviceID, "ping"); strings.TrimSpace(string(got)) != "pong" {
				t.Errorf("push: %q", got)
			}
			acks = append(acks, time.Since(started))
		}
	}
	if answer, err := io.ReadAll(bulk); string(answer) != "taken" || err != nil {
		t.Errorf("bulk: %q, %v", answer, err)
	}
	if <-sum != [sha256.Size]byte(h.Sum(nil)) {
		t.Error("bulk: another sum")
	}
	// That they came back while the copy went on is the assertion; the times are
	// for whoever looks.
	slices.Sort(waits)
	if len(waits) < 3 || len(acks) == 0 {
		t.Fatalf("%d echoes and %d acks beside the copy", len(waits), len(acks))
	}
	t.Logf("beside %d MiB: %d echoes, median %s, longest %s; push to ack %s", size>>20, len(waits), waits[len(waits)/2], waits[len(waits)-1], acks)
}

func TestReachDeviceNetworkByProxyAndSOCKS(t *testing.T) {
	t.Parallel()
	s := newSite(t).serve(true)
	web := webPage(t)
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(web, "http://"))
	startDevice(t, s, "--service", "proxy=proxy:localhost:"+port+",*.test:443")
	s.ready()
	proxy, socks := s.forwarded("127.0.0.1:0", deviceID, "proxy"), s.forwarded("--socks", "127.0.0.1:0", deviceID)
	for name, args := range map[string][]string{"CONNECT": {"-p", "-x", "http://" + proxy}, "SOCKS": {"-x", "socks5h://" + socks}} {
		if got := works(t, "curl", append(args, "-sS", "--max-time", "20", "http://localhost:"+port+"/")...); got != "pump page" {
			t.Errorf("%s: %q", name, got)
		}
		_, err := tool(t, nil, "curl", append(args, "-sS", "--max-time", "20", "http://localhost:1/")...)
		if err == nil || !strings.Contains(err.Error(), map[string]string{"CONNECT": "403", "SOCKS": "(2)"}[name]) {
			t.Errorf("%s to a destination that is not allowed: %v", name, err)
		}
	}
	// The whole reason is in the proxy's answer.
	refusal := must(t, strings.NewReader("CONNECT localhost:1 HTTP/1.1\r\nHost: localhost:1\r\n\r\n"), "dial", "--admin", s.admin(), deviceID, "proxy")
	contains(t, string(refusal), "403 Forbidden", "no rule allows localhost:1")
}

func TestReachForwardOutlivesDeviceAndServer(t *testing.T) {
	t.Parallel()
	s := newSite(t).serve(true)
	args := []string{"--service", "echo=tcp://" + echoService(t)}
	d := startDevice(t, s, args...)
	s.ready()
	to := s.forwarded("127.0.0.1:0", deviceID, "echo")
	say := func() error {
		c, err := net.Dial("tcp", to)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(c, "hello")
		_ = c.(*net.TCPConn).CloseWrite()
		got, err := io.ReadAll(c)
		if err == nil && !bytes.Equal(got, []byte("hello")) {
			err = fmt.Errorf("got %q", got)
		}
		return err
	}
	s.write(say())
	d.Stop(grace)
	waiting := make(chan error, 1)
	go func() { waiting <- say() }() // it waits for the device
	startDevice(t, s, args...)
	if err := <-waiting; err != nil {
		t.Errorf("while the device was away: %v", err)
	}
	s.server.Stop(grace)
	go func() { waiting <- say() }()
	// The same address, for the device knows no other.
	server := append(s.serverArgs(true), "--listen", s.addr)
	s.server = start(t, "server", exec.Command(exe, server...))
	await(t, s.server, "listening")
	err := <-waiting
	for end := time.Now().Add(patience); err != nil && time.Now().Before(end); {
		err = say() // the device comes back when its own pause is over
	}
	if err != nil {
		t.Errorf("after the server came back: %v", err)
	}
}

func TestReachOfflineDeviceWithWait(t *testing.T) {
	t.Parallel()
	s := newSite(t).serve(true)
	run(t, nil, "dial", "--admin", s.admin(), deviceID, "echo").fails(t, 1, "not connected")
	run(t, nil, "dial", "--admin", s.admin(), "--wait", "--timeout", "200ms", deviceID, "echo").fails(t, 1, "it did not connect within 200ms")
	got := make(chan result, 1)
	go func() {
		got <- run(t, strings.NewReader("hello"), "dial", "--admin", s.admin(), "--wait", "--timeout", "1m", deviceID, "echo")
	}()
	startDevice(t, s, "--service", "echo=tcp://"+echoService(t))
	if r := <-got; r.code != 0 || string(r.stdout) != "hello" {
		t.Errorf("exit %d, %q\n%s", r.code, r.stdout, r.stderr)
	}
}

// What is denied is said at once, to whoever asked.
func TestReachDeniedIsSaidAndNotAHang(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.serveWith(`services: {echo: "tcp://` + echoService(t) + `", other: "tcp://127.0.0.1:1"}
authorization:
  devices:
  - {who: ["pump-*"], services: [echo]}
  operators:
  - {who: [local], may: [list, dial], devices: ["*"], services: [echo, absent]}
`)
	d := startDevice(t, s, "--service", "ssh=exec:cat", "--allow-exec", "--service", "echo=exec:cat", "--forward", "127.0.0.1:0=other", "--forward", "127.0.0.2:0=echo")
	s.ready()
	run(t, nil, "dial", "--admin", s.admin(), deviceID, "ssh").fails(t, 1, "refused (not allowed)", "do not let local dial ssh", "authorization")
	run(t, nil, "dial", "--admin", s.admin(), deviceID, "absent").fails(t, 1, "refused (not found)", "no service absent")
	run(t, nil, "push", "--admin", s.admin(), deviceID, "reboot").fails(t, 1, "not allowed", "signal reboot")
	if got := must(t, strings.NewReader("x"), "dial", "--admin", s.admin(), deviceID, "echo"); string(got) != "x" {
		t.Errorf("what is allowed: %q", got)
	}
	// A forward's client is reset, and the forward's log has the reason.
	c := start(t, "forward", exec.Command(exe, "forward", "--admin", s.admin(), "127.0.0.1:0", deviceID, "ssh"))
	reset(t, address(t, c, "forwarding"))
	await(t, c, "not allowed", "do not let local dial ssh")
	reset(t, address(t, d, "forwarding", "service=other"))
	await(t, d, "not allowed", "do not let this device reach the service other")
	allowed, err := net.Dial("tcp", address(t, d, "forwarding", "service=echo"))
	s.write(err)
	defer func() { _ = allowed.Close() }()
	_, _ = io.WriteString(allowed, "x")
	if _, err := io.ReadFull(allowed, make([]byte, 1)); err != nil {
		t.Error(err)
	}
	// The rules change while the server runs; with a mistake the old ones stay.
	s.write(os.WriteFile(s.file("server.yaml"), []byte("authorization: {operators: [{who: [joe]}]}\n"), 0o600))
	await(t, s.server, "the old rules stay", "server.yaml:1: authorization.operators[0].who")
	s.write(os.WriteFile(s.file("server.yaml"), []byte("authorization: {devices: [], operators: [{who: [local], may: [dial], devices: [pump-7]}]}\n"), 0o600))
	s.write(syscall.Kill(s.server.PID(), syscall.SIGHUP))
	await(t, s.server, "rules read again")
	if got := must(t, strings.NewReader("y"), "dial", "--admin", s.admin(), deviceID, "ssh"); string(got) != "y" {
		t.Errorf("after the rules have changed: %q", got)
	}
}

// reset asserts that a connection is refused as a failure.
func reset(t *testing.T, addr string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err == nil {
		_ = c.SetDeadline(time.Now().Add(patience))
		_, err = c.Read(make([]byte, 1))
		_ = c.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("connection to %s: %v, want a reset", addr, err)
	}
}
