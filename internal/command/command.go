// Package command runs a program that handles a signal: the signal's data on its
// standard input, its exit status and the last line that it prints are the
// answer.
package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
	"unicode"
)

// MaxText is the length of an answer, in bytes.
const MaxText = 1 << 10

const (
	maxOutput = 64 << 10        // that is kept of each of a command's outputs
	pipeWait  = 2 * time.Second // for pipes that a command's children hold open
)

// Options say what is run.
type Options struct {
	Args    []string // the program and its arguments; required
	Stdin   []byte
	Env     []string      // beside this program's own
	Timeout time.Duration // required
}

// Run runs the program once. Exit status 0 gives the last line of its standard
// output as the reply; another an error with the last line of its standard error.
// When ctx or the time ends, the program and what it started are killed.
func Run(ctx context.Context, o *Options) (reply string, err error) {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, o.Args[0], o.Args[1:]...)
	var out, errOut tail
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(o.Stdin), &out, &errOut
	cmd.Env = append(os.Environ(), o.Env...)
	cmd.WaitDelay = pipeWait
	ownGroup(cmd)
	cmd.Cancel = func() error { return killGroup(cmd) }
	err = cmd.Run()
	// A child that a command leaves behind on purpose may hold the pipes.
	if err == nil || errors.Is(err, exec.ErrWaitDelay) && cmd.ProcessState.Success() {
		return out.lastLine(), nil
	}
	switch exit := (*exec.ExitError)(nil); {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return "", fmt.Errorf("the command did not end within %s", o.Timeout)
	case ctx.Err() != nil:
		return "", errors.New("the session ended while the command ran")
	case errors.As(err, &exit):
		if text := errOut.lastLine(); text != "" {
			return "", errors.New(text)
		}
		return "", fmt.Errorf("the command ended with %w", exit)
	}
	return "", fmt.Errorf("the command cannot run: %w", err)
}

// tail is a writer that keeps the last maxOutput bytes.
type tail struct{ buf []byte }

func (t *tail) Write(p []byte) (int, error) {
	n := len(p)
	p = p[max(0, n-maxOutput):]
	if over := len(t.buf) + len(p) - maxOutput; over > 0 {
		t.buf = t.buf[:copy(t.buf, t.buf[over:])]
	}
	t.buf = append(t.buf, p...)
	return n, nil
}

// lastLine is the last line that is not blank, as printable text.
func (t *tail) lastLine() string {
	text := strings.TrimSpace(string(t.buf))
	return Printable(text[strings.LastIndexByte(text, '\n')+1:])
}

// Printable shortens s to MaxText bytes of printable UTF-8.
func Printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > MaxText {
		s = strings.ToValidUTF8(s[:MaxText], "")
	}
	return strings.TrimSpace(s)
}
