//go:build unix

package child

import (
	"context"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func run(t *testing.T, script string) *Child {
	t.Helper()
	c, err := Start("script", exec.Command("sh", "-c", script))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Stop(time.Second) })
	return c
}

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestAwaitFindsLine(t *testing.T) {
	c := run(t, "echo one; echo two words >&2; exec sleep 60")
	line, err := c.Await(bounded(t), "two", "words")
	if err != nil || line != "two words" {
		t.Fatalf("%q, %v", line, err)
	}
	if c.ExitCode() != -1 {
		t.Error("an exit code while it runs")
	}
}

func TestAwaitFailsWhenProcessEnds(t *testing.T) {
	c := run(t, "echo last words; exit 3")
	if _, err := c.Await(bounded(t), "never"); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Fatalf("%v", err)
	}
	if c.ExitCode() != 3 || !strings.Contains(c.Tail(5), "last words") {
		t.Errorf("exit %d, %s", c.ExitCode(), c.Tail(5))
	}
}

func TestAwaitIsBounded(t *testing.T) {
	c := run(t, "exec sleep 60")
	ctx, cancel := context.WithCancel(bounded(t))
	cancel()
	if _, err := c.Await(ctx, "never"); err == nil {
		t.Fatal("no error")
	}
}

func TestStopEndsProcessAndGrandchildren(t *testing.T) {
	c := run(t, `trap "" TERM; sleep 60 & echo pid=$!; wait; wait`)
	line, err := c.Await(bounded(t), "pid=")
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimPrefix(line, "pid="))
	if err != nil {
		t.Fatal(err)
	}
	c.Stop(10 * time.Millisecond)
	c.Stop(time.Second) // idempotent
	for syscall.Kill(pid, 0) == nil && !zombie(pid) {
		if bounded := t.Context().Err(); bounded != nil {
			t.Fatal(bounded)
		}
		time.Sleep(time.Millisecond) // the kernel ends it after the kill
	}
}

// zombie tells a process that has ended but that nobody has waited for.
func zombie(pid int) bool {
	out, _ := exec.Command("ps", "-o", "stat=", "-p", strconv.Itoa(pid)).Output()
	return len(out) == 0 || strings.HasPrefix(strings.TrimSpace(string(out)), "Z")
}

func TestStartSaysWhatFails(t *testing.T) {
	if _, err := Start("box", exec.Command("/nonexistent/box")); err == nil || !strings.Contains(err.Error(), "starting box") {
		t.Fatalf("%v", err)
	}
}
