//go:build unix

package device

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	runner "github.com/atls-ws/atls-ws/internal/command"
	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

func sh(script string, timeout time.Duration) command {
	return command{config.Command{Command: []string{"sh", "-c", script}, Timeout: timeout}, slog.New(slog.DiscardHandler)}
}

func TestCommandAnswersWithItsLastLine(t *testing.T) {
	for _, tc := range []struct {
		name, script string
		reply, err   string
	}{
		{"ack", `echo first; echo "got $(cat)"; echo`, "got data", ""},
		{"silent ack", "cat >/dev/null", "", ""},
		{"data not read", "echo done", "done", ""},
		{"environment", `echo "$ATLS_SIGNAL_NAME $ATLS_SIGNAL_ID $ATLS_CONTENT_TYPE"`, "test 01000000000000000000000000000000 text/plain", ""},
		{"refusal", "echo out; echo one >&2; echo two >&2; exit 3", "", "two"},
		{"silent refusal", "exit 3", "", "the command ended with exit status 3"},
		{"no control characters", `printf 'a\033[31mb\n'`, "a [31mb", ""},
		{"endless line", "head -c 200000 /dev/zero | tr '\\0' x", strings.Repeat("x", runner.MaxText), ""},
		{"timeout", "echo early; sleep 60", "", "the command did not end within 200ms"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			timeout := time.Minute
			if tc.name == "timeout" {
				timeout = 200 * time.Millisecond
			}
			reply, err := sh(tc.script, timeout).handle(t.Context(), client.Signal{ID: [16]byte{1}, Name: "test", ContentType: "text/plain", Data: []byte("data")})
			text := ""
			if err != nil {
				text = err.Error()
			}
			if reply != tc.reply || text != tc.err {
				t.Errorf("reply %q, error %q, want %q, %q", reply, text, tc.reply, tc.err)
			}
		})
	}
}

func TestCommandThatDoesNotExistRefuses(t *testing.T) {
	c := command{config.Command{Command: []string{"/nonexistent/program"}}, slog.New(slog.DiscardHandler)}
	if _, err := c.handle(t.Context(), client.Signal{}); err == nil || !strings.Contains(err.Error(), "cannot run") {
		t.Errorf("error %v", err)
	}
}

func TestEndOfSessionKillsTheCommandAndItsChildren(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "started")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := sh("sleep 600 & echo yes >"+fifo+"; wait", time.Minute).handle(ctx, client.Signal{})
		ended <- err
	}()
	for {
		if b, _ := os.ReadFile(fifo); len(b) > 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	// The child holds the pipes: unless it is killed too, this takes pipeWait.
	if err := <-ended; err == nil || err.Error() != "the session ended while the command ran" {
		t.Errorf("error %v", err)
	}
}
