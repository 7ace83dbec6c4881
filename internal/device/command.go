package device

import (
	"context"
	"encoding/hex"
	"log/slog"
	"time"

	"github.com/atls-ws/atls-ws/client"
	runner "github.com/atls-ws/atls-ws/internal/command"
	"github.com/atls-ws/atls-ws/internal/config"
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
	return runner.Run(ctx, &runner.Options{Args: c.Command.Command, Stdin: sig.Data, Timeout: timeout, Env: []string{
		"ATLS_SIGNAL_NAME=" + sig.Name, "ATLS_SIGNAL_ID=" + hex.EncodeToString(sig.ID[:]),
		"ATLS_CONTENT_TYPE=" + runner.Printable(sig.ContentType),
	}})
}
