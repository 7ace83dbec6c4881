// Package child runs another program as a child process whose log can be read
// while it runs and that is surely gone afterwards. The demo and the
// end-to-end tests start servers, devices and proxies with it.
package child

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// tailLines is how much of the log is kept.
const tailLines = 400

// Child is a running or ended process. Its methods may be called concurrently.
type Child struct {
	name string
	cmd  *exec.Cmd
	done chan struct{}

	mu      sync.Mutex
	lines   []string
	partial string
	changed chan struct{} // closed and replaced at each new line
}

// Start runs the command in a process group of its own, so that a Ctrl-C in
// the terminal reaches only the parent, which ends its children in order. What
// it writes on stdout and stderr becomes the log; a Stdout that the caller set
// stays the caller's. The caller owns the process and calls Stop.
func Start(name string, cmd *exec.Cmd) (*Child, error) {
	c := &Child{name: name, cmd: cmd, done: make(chan struct{}), changed: make(chan struct{})}
	cmd.Stderr = writerFunc(c.write)
	if cmd.Stdout == nil {
		cmd.Stdout = cmd.Stderr
	}
	cmd.WaitDelay = 2 * time.Second // a grandchild may hold the pipes
	ownGroup(cmd)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go func() { // ends with the process; Stop waits for it
		_ = cmd.Wait()
		killGroup(cmd) // what it started and left; now, while the id cannot be another's yet
		close(c.done)
	}()
	return c, nil
}

// Name is what Start was given.
func (c *Child) Name() string { return c.name }

// PID is the process id.
func (c *Child) PID() int { return c.cmd.Process.Pid }

// Done is closed when the process has ended and its log is complete.
func (c *Child) Done() <-chan struct{} { return c.done }

// ExitCode is the exit status of a process that has ended; -1 before, and
// after a death by signal.
func (c *Child) ExitCode() int {
	select {
	case <-c.done:
		return c.cmd.ProcessState.ExitCode()
	default:
		return -1
	}
}

// Await returns the first line of the log that contains all the given texts. ctx
// bounds the waiting. It fails at once when the process ends without it.
func (c *Child) Await(ctx context.Context, texts ...string) (string, error) {
	for {
		ended := false
		select {
		case <-c.done:
			ended = true
		default:
		}
		c.mu.Lock()
		changed := c.changed
		line, ok := find(c.lines, texts)
		c.mu.Unlock()
		if ok {
			return line, nil
		}
		if ended {
			return "", fmt.Errorf("%s ended (%s) without saying %q", c.name, c.cmd.ProcessState, texts)
		}
		select {
		case <-changed:
		case <-c.done:
		case <-ctx.Done():
			return "", fmt.Errorf("%s did not say %q: %w", c.name, texts, ctx.Err())
		}
	}
}

func find(lines, texts []string) (string, bool) {
next:
	for _, l := range lines {
		for _, t := range texts {
			if !strings.Contains(l, t) {
				continue next
			}
		}
		return l, true
	}
	return "", false
}

// Log is the end of what the process wrote, whole lines, oldest first.
func (c *Child) Log() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(append(append([]string(nil), c.lines...), c.partial), "\n")
}

// Tail is the last n lines of the log, indented, under the process's name.
func (c *Child) Tail(n int) string {
	lines := strings.Split(strings.TrimSpace(c.Log()), "\n")
	lines = lines[max(0, len(lines)-n):]
	return fmt.Sprintf("last log lines of %s:\n    %s\n", c.name, strings.Join(lines, "\n    "))
}

// Stop asks the process to end and waits for it; after grace it kills it.
// Whatever it started is killed with it. Stopping twice is fine.
func (c *Child) Stop(grace time.Duration) {
	select {
	case <-c.done:
		return
	default:
	}
	terminate(c.cmd)
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-c.done:
	case <-t.C:
		killGroup(c.cmd)
		<-c.done // bounded: killed, and WaitDelay bounds the pipes
	}
}

// Kill ends the process and whatever it started without asking, and waits for it.
func (c *Child) Kill() {
	select {
	case <-c.done:
	default:
		killGroup(c.cmd)
		<-c.done
	}
}

func (c *Child) write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	parts := strings.Split(c.partial+string(b), "\n")
	c.partial = parts[len(parts)-1]
	if len(c.partial) > 64<<10 {
		c.partial = c.partial[:64<<10]
	}
	c.lines = append(c.lines, parts[:len(parts)-1]...)
	c.lines = c.lines[max(0, len(c.lines)-tailLines):]
	close(c.changed)
	c.changed = make(chan struct{})
	return len(b), nil
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
