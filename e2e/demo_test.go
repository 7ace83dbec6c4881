//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/atls-ws/atls-ws/internal/child"
)

// demo starts atls-ws demo so that whatever it would leave is found: its
// temporary files in a folder of its own, its processes by an inherited mark.
func demo(t *testing.T, name string) (c *child.Child, nothingLeft func()) {
	t.Helper()
	return demoTo(t, name, nil)
}

// demoTo is demo with its stdout elsewhere than in the log; nil is the log.
func demoTo(t *testing.T, name string, stdout *os.File) (c *child.Child, nothingLeft func()) {
	t.Helper()
	// Not t.TempDir: its long name would not leave room for a unix socket.
	tmp, err := os.MkdirTemp("", "demo-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(tmp) })
	cmd := exec.Command(exe, "demo")
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp, mark+"="+name,
		"ATLS_WS_LOG_FORMAT=json", "ATLS_WS_LOG_LEVEL=error", "ATLS_WS_CONFIG=of-the-person") // not for the demo
	if stdout != nil {
		cmd.Stdout = stdout
	}
	c = start(t, "demo", cmd)
	return c, func() {
		t.Helper()
		select {
		case <-c.Done():
		case <-bounded(t).Done():
			t.Fatal("the demo does not end")
		}
		if left := marked(name); len(left) > 0 {
			t.Errorf("processes left: %q", left)
		}
		files, err := os.ReadDir(tmp)
		if err != nil || len(files) > 0 {
			t.Errorf("files left: %v, %v", files, err)
		}
	}
}

func TestDemoShowsTheWholePath(t *testing.T) {
	c, nothingLeft := demo(t, "whole")
	nothingLeft()
	if c.ExitCode() != 0 {
		t.Errorf("exit %d", c.ExitCode())
	}
	contains(t, c.Log(), "1. ", "8. ", "the MIDDLEBOX answered", "the REAL service", "intercepted = true",
		"handler on the device: signal display says: filter change due on Friday",
		"ack at the sender:     showing: filter change due on Friday", "200 OK: <h1>Pump 7</h1>", "words not among them")
	if t.Failed() {
		t.Log(c.Log())
	}
}

func TestDemoInterruptedLeavesNothing(t *testing.T) {
	for step, sig := range map[string]syscall.Signal{
		"1. ": syscall.SIGINT, "2. ": syscall.SIGTERM, "3. ": syscall.SIGINT, "4. ": syscall.SIGTERM, "6. ": syscall.SIGINT,
	} {
		t.Run("after step "+step[:1], func(t *testing.T) {
			c, nothingLeft := demo(t, "interrupt-"+step[:1])
			await(t, c, step)
			if err := syscall.Kill(c.PID(), sig); err != nil {
				t.Fatal(err)
			}
			nothingLeft()
			if c.ExitCode() != 1 {
				t.Errorf("exit %d, want 1", c.ExitCode())
			}
			contains(t, c.Log(), "interrupted", "next:")
		})
	}
}

func TestDemoWithoutReaderLeavesNothing(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Close() // as with: atls-ws demo | true
	c, nothingLeft := demoTo(t, "pipe", w)
	_ = w.Close()
	nothingLeft()
	if c.ExitCode() != 1 {
		t.Errorf("exit %d, want 1", c.ExitCode())
	}
}
