//go:build e2e && linux

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// briskly makes three seconds of silence a death: the pings of the configuration
// every second.
const briskly = "limits: {keepalive: 1s}\n"

// TestDeviceThatSlept: it was stopped for longer than the server keeps a silent
// peer. It notices at once, comes back over the same carrier, and what was queued
// meanwhile is handled once.
func TestDeviceThatSlept(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.serve(false, "--config", writeConf(s, "server.yaml", briskly))
	state, notes := s.file("state"), s.file("notes")
	d := start(t, "device", exec.Command(exe, s.deviceArgs("ws://"+s.addr+path, "--state", state, "--on", "note=cat >>"+notes+"; echo noted")...))
	s.ready()
	resume := stopped(t, d.PID())
	eventually(t, func() string { return "still connected" }, func() bool {
		return strings.TrimSpace(string(must(t, nil, "devices", "--json", "--admin", s.admin()))) == "[]"
	})
	must(t, strings.NewReader("once\n"), "push", "--no-wait", "--admin", s.admin(), deviceID, "note", "-")
	for range 2 { // each waits for five seconds
		run(t, nil, "device", "status", "--state", state).fails(t, 1, "does not answer", "stopped")
	}
	resume()
	await(t, d, "the machine slept, or its clock was set")
	says(t, d, 2, "session ready", "carrier=websocket")
	await(t, d, "signal acked")
	if got, err := os.ReadFile(notes); err != nil || string(got) != "once\n" {
		t.Errorf("noted %q, %v", got, err)
	}
	must(t, nil, "device", "status", "--state", state)
	if n := count(d, "signal acked"); n != 1 {
		t.Errorf("acked %d times", n)
	}
}

// TestCableThatIsPulled, and put into another network.
func TestCableThatIsPulled(t *testing.T) {
	t.Parallel()
	p := newPlace(t, true, "")
	s := newSite(t)
	s.listen = p.host + ":0"
	s.serve(false) // pings every 25 s: they would take 75 s to find it dead
	state := s.file("state")
	d := p.device(s, "ws://"+s.addr+path, "--state", state)
	s.ready()
	p.ip("link", "set", p.near, "down")
	await(t, d, "the network has changed: asking the server for a sign of life", "addresses_gone=")
	await(t, d, "session ended", "silent")
	p.status(state, 1, "no, since", "last error", "next try")
	says(t, d, 2, "no session")
	p.address(9)
	p.ip("link", "set", p.near, "up")
	says(t, d, 2, "session ready", "carrier=websocket")
	p.status(state, 0, "yes, since")

	// The session's address goes while the cable stays.
	p.address(12)
	says(t, d, 1, "asking the server for a sign of life", "addresses_new=", ".12/24")
	says(t, d, 3, "session ready")

	p.in("ip", "link", "set", p.far, "down")
	p.once(s, "ws://"+s.addr+path).fails(t, 1, "no route", "network")
}

// TestAddressThatComesEndsALongPause: a portal forbids it, so that the next try
// is minutes away; then the device is in another network.
func TestAddressThatComesEndsALongPause(t *testing.T) {
	t.Parallel()
	p := newPlace(t, true, "")
	s := newSite(t)
	s.listen = p.host + ":0"
	s.serve(false)
	state := s.file("state")
	d := p.device(s, "ws://"+s.addr+"/elsewhere", "--state", state)
	line := await(t, d, "no session", "404")
	m := regexp.MustCompile(`retry_in=(\S+)`).FindStringSubmatch(line)
	if m == nil {
		t.Fatal(line)
	}
	if pause, err := time.ParseDuration(m[1]); err != nil || pause < 5*time.Minute {
		t.Fatalf("a pause of %s, %v: nothing is shown by its end", pause, err)
	}
	p.status(state, 1, "no, since", "404", "next try", "after 1 that failed")
	p.address(7)
	await(t, d, "the network has changed: trying again", "addresses_new=", ".7/24")
	says(t, d, 2, "no session", "404")
}

// TestDNSThatFails in each of its ways is said, is tried again, and recovers.
func TestDNSThatFails(t *testing.T) {
	t.Parallel()
	conf := newSite(t).file("resolv.conf") // a folder that goes with the test
	// The file has to be there before the namespaces are; the address is known after.
	if err := os.WriteFile(conf, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	p := newPlace(t, true, `mount --bind "$0" /etc/resolv.conf`, conf)
	if err := os.WriteFile(conf, []byte("nameserver "+p.host+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := newResolver(t, p, dnsFails)
	s := newSite(t)
	s.listen = p.host + ":0"
	s.serve(false)
	url := "ws://server.example" + s.addr[strings.LastIndex(s.addr, ":"):] + path

	state := s.file("state")
	d := p.device(s, url, "--state", state)
	await(t, d, "not connected", "DNS has no answer", "next=")
	p.status(state, 1, "no, since", "DNS has no answer", "next try")
	r.mood.Store(dnsNoName)
	await(t, d, "not connected", "name is not found", "next=")
	p.once(s, url).fails(t, 1, "the server's name is not found", "server.example")
	r.mood.Store(dnsFails)
	p.once(s, url).fails(t, 1, "DNS has no answer", "server.example")
	r.mood.Store(dnsAnswers)
	await(t, d, "session ready")
	p.status(state, 0, "yes, since")
	if n, m := count(d, "no session"), count(d, "not connected"); m > n {
		t.Errorf("%d tries, and %d times the reason", n, m)
	}
	r.mood.Store(dnsSilent)
	p.once(s, url).fails(t, 1, "DNS does not answer", "server.example", "resolv.conf")
}

// TestStateOnABadDisk: the device works as ever, says once what is not kept, and
// keeps it as soon as it can.
func TestStateOnABadDisk(t *testing.T) {
	for _, tc := range []struct {
		name, script, heal string
		words              []string
	}{
		{"full", `mkdir "$0"; mount -t tmpfs -o size=8k none "$0"; head -c 8k /dev/zero >"$0/fill"`, `rm "$0/fill"`, []string{"no space left"}},
		{"read-only", `mkdir "$0"; mount -t tmpfs none /run; mount -t tmpfs -o ro none "$0"`, `mount -o remount,rw "$0"`, []string{"read-only file system"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			state, notes := s.file("state"), s.file("notes")
			p := newPlace(t, false, tc.script, state)
			s.serve(false)
			url, args := "ws://"+s.addr+path, []string{"--state", state, "--on", "note=cat >>" + notes + "; echo noted"}

			once := p.device(s, url, append(args, "--once")...)
			await(t, once, "session ready")
			s.ready()
			must(t, nil, "disconnect", "--admin", s.admin(), deviceID)
			<-once.Done()
			result{nil, once.Log(), once.ExitCode()}.fails(t, 1, append(tc.words, "the state is not kept", "session closed by the peer")...)

			d := p.device(s, url, args...)
			await(t, d, "session ready")
			for i := range 3 {
				if got := must(t, strings.NewReader(fmt.Sprintln(i)), "push", "--admin", s.admin(), deviceID, "note", "-"); !strings.Contains(string(got), "noted") {
					t.Errorf("%q", got)
				}
			}
			line := await(t, d, "the state is not kept")
			contains(t, line, append(tc.words, "handled again", "next=")...)
			p.status(state, 0, append(tc.words, "yes, since", "not kept since")...)
			if n := count(d, "not kept"); n != 1 {
				t.Errorf("said %d times", n)
			}
			p.in("sh", "-c", tc.heal, state)
			await(t, d, "the state is kept again")
			contains(t, p.in("cat", state+"/applied.json", state+"/VERSION"), `"seq":3`)
			d.Kill()
			d = p.device(s, url, args...) // from what was kept
			await(t, d, "session ready")
			must(t, strings.NewReader("3\n"), "push", "--admin", s.admin(), deviceID, "note", "-")
			if got, err := os.ReadFile(notes); err != nil || string(got) != "0\n1\n2\n3\n" {
				t.Errorf("noted %q, %v", got, err)
			}
		})
	}
}
