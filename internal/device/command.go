package device

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"time"
	"unicode"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/config"
)

const (
	maxOutput = 64 << 10        // that is kept of each of a command's outputs
	maxText   = 1 << 10         // of an ack or a refusal
	pipeWait  = 2 * time.Second // for pipes that a command's children hold open
)

// command handles signals by running a program.
type command struct {
	config.Command
	log *slog.Logger
}

// handle runs the program once: the signal's data on its standard input, the
// last line of its standard output is the ack, or of its standard error the
// refusal.
func (c command) handle(ctx context.Context, sig client.Signal) (reply string, err error) {
	log := c.log.With("signal", sig.Name, "id", hex.EncodeToString(sig.ID[:]), "bytes", len(sig.Data))
	if s, ok := client.FromContext(ctx); ok {
		log = log.With("device", s.Device(), "session", s.ID())
	}
	started := time.Now()
	reply, err = c.run(ctx, sig)
	took := time.Since(started).Round(time.Millisecond).String()
	if err != nil {
		log.Warn("signal refused", "took", took, "err", err)
		return "", err
	}
	log.Info("signal acked", "took", took)
	return reply, nil
}

func (c command) run(ctx context.Context, sig client.Signal) (string, error) {
	timeout := c.Timeout
	if timeout <= 0 {
		timeout = config.DefaultCommandTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.Command.Command[0], c.Command.Command[1:]...)
	var out, errOut tail
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(sig.Data), &out, &errOut
	cmd.Env = append(os.Environ(), "ATLS_SIGNAL_NAME="+sig.Name, "ATLS_SIGNAL_ID="+hex.EncodeToString(sig.ID[:]),
		"ATLS_CONTENT_TYPE="+printable(sig.ContentType))
	cmd.WaitDelay = pipeWait
	ownGroup(cmd)
	cmd.Cancel = func() error { return killGroup(cmd) }
	err := cmd.Run()
	// A child that a command leaves behind on purpose may hold the pipes.
	if err == nil || errors.Is(err, exec.ErrWaitDelay) && cmd.ProcessState.Success() {
		return out.lastLine(), nil
	}
	switch exit := (*exec.ExitError)(nil); {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return "", fmt.Errorf("the command did not end within %s", timeout)
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
	return printable(text[strings.LastIndexByte(text, '\n')+1:])
}

// printable shortens s to maxText bytes of printable UTF-8.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "")
	}
	return strings.TrimSpace(s)
}
