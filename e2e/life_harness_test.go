//go:build e2e && linux

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/internal/child"
)

// place is where a device runs: namespaces of its own for mounts and network. It
// lasts as long as the process that holds it, which ends with the test's.
type place struct {
	t    *testing.T
	hold *child.Child
	net  bool
	host string // address of the server's end of the cable
	far  string // interface of the device's end; the near end's name is near
	near string
}

var cables atomic.Uint32

// newPlace makes namespaces in which the script has run. With a cable its only
// network is a link to the server's, with an address of its own.
func newPlace(t *testing.T, cable bool, script string, args ...string) *place {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can make namespaces, mounts and interfaces")
	}
	for _, tool := range []string{"unshare", "nsenter", "ip"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing(t, tool)
		}
	}
	flags := []string{"--mount"}
	if cable {
		flags = append(flags, "--net")
	}
	if out, err := exec.Command("unshare", append(flags, "true")...).CombinedOutput(); err != nil {
		t.Skipf("root may not make namespaces here: %s", out)
	}
	p := &place{t: t, net: cable}
	cmd := exec.Command("unshare", append(append(flags, "sh", "-ec", script+"\necho held\nexec cat"), args...)...)
	stdin, err := cmd.StdinPipe() // cat ends when this process does
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stdin.Close() })
	p.hold = start(t, "place", cmd)
	await(t, p.hold, "held")
	if cable {
		n := uint32(os.Getpid())%4000*16 + cables.Add(1)%16
		p.near, p.far = fmt.Sprintf("atls%da", n), fmt.Sprintf("atls%db", n)
		p.host = fmt.Sprintf("198.18.%d.1", n%250+1) // RFC 2544: of tests
		p.ip("link", "add", p.near, "type", "veth", "peer", "name", p.far, "netns", fmt.Sprint(p.hold.PID()))
		t.Cleanup(func() { _ = exec.Command("ip", "link", "del", p.near).Run() })
		p.ip("addr", "add", p.host+"/24", "dev", p.near)
		p.ip("link", "set", p.near, "up")
		p.in("ip", "link", "set", "lo", "up")
		p.address(2)
		p.in("ip", "link", "set", p.far, "up")
	}
	return p
}

func (p *place) ip(args ...string) {
	p.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		p.t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// address gives the device's end of the cable an address in place of others.
func (p *place) address(last int) {
	p.t.Helper()
	p.in("ip", "addr", "flush", "dev", p.far)
	p.in("ip", "addr", "add", p.host[:strings.LastIndex(p.host, ".")+1]+fmt.Sprint(last)+"/24", "dev", p.far)
}

// command is one that runs there.
func (p *place) command(args ...string) *exec.Cmd {
	enter := []string{"--target", fmt.Sprint(p.hold.PID()), "--mount"}
	if p.net {
		enter = append(enter, "--net")
	}
	return exec.Command("nsenter", append(enter, args...)...)
}

// in runs a command there, which has to succeed.
func (p *place) in(args ...string) string {
	p.t.Helper()
	out, err := p.command(args...).CombinedOutput()
	if err != nil {
		p.t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// device starts a device there.
func (p *place) device(s *site, url string, more ...string) *child.Child {
	p.t.Helper()
	return start(p.t, "device", p.command(append([]string{exe}, s.deviceArgs(url, more...)...)...))
}

// once runs a device there that ends by itself.
func (p *place) once(s *site, url string, more ...string) result {
	p.t.Helper()
	c := p.device(s, url, append(more, "--once")...)
	select {
	case <-c.Done():
	case <-bounded(p.t).Done():
		p.t.Fatal("device --once does not end")
	}
	return result{nil, c.Log(), c.ExitCode()}
}

// status asks the device that runs there until its answer has the words.
func (p *place) status(state string, code int, words ...string) {
	p.t.Helper()
	last := ""
	eventually(p.t, func() string { return last }, func() bool {
		cmd := p.command(exe, "device", "status", "--state", state)
		out, err := cmd.CombinedOutput()
		last = string(out)
		exit := (*exec.ExitError)(nil)
		if got := 0; err == nil || errors.As(err, &exit) {
			if exit != nil {
				got = exit.ExitCode()
			}
			return got == code && has(last, words)
		}
		return false
	})
}

func has(text string, words []string) bool {
	for _, w := range words {
		if !strings.Contains(strings.ToLower(text), strings.ToLower(w)) {
			return false
		}
	}
	return true
}

// eventually waits until it is so, and else shows what there is instead.
func eventually(t *testing.T, instead func() string, is func() bool) {
	t.Helper()
	ctx := bounded(t)
	for !is() {
		select {
		case <-ctx.Done():
			t.Fatalf("did not happen; instead:\n%s", instead())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// says waits until n lines of a log have the words.
func says(t *testing.T, c *child.Child, n int, words ...string) {
	t.Helper()
	eventually(t, func() string { return fmt.Sprintf("not %d times %q in\n%s", n, words, c.Log()) }, func() bool {
		return count(c, words...) >= n
	})
}

func count(c *child.Child, words ...string) (n int) {
	for _, line := range strings.Split(c.Log(), "\n") {
		if has(line, words) {
			n++
		}
	}
	return n
}

// stopped stops a process, as a suspend does, until the returned function.
func stopped(t *testing.T, pid int) (resume func()) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	resume = func() { _ = syscall.Kill(pid, syscall.SIGCONT) }
	t.Cleanup(resume)
	return resume
}
