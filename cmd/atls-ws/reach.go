//go:build !device

package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/forward"
)

const (
	reachWait  = 10 * time.Second       // of a new connection for its device and for the server
	retryEvery = 500 * time.Millisecond // to reach a server that does not answer
)

// reachDevice connects to a service of a device. It waits for a device that is
// not connected, and for a server that does not answer, as long as wait.
func reachDevice(ctx context.Context, c *cli.Context, device, service string, wait time.Duration) (*admin.Conn, error) {
	client := adminClient(c)
	end := time.Now().Add(wait)
	for {
		conn, err := client.DialWait(ctx, device, service, max(0, time.Until(end)).Round(time.Millisecond))
		unreachable := (*admin.UnreachableError)(nil)
		if err == nil || !errors.As(err, &unreachable) || time.Until(end) <= retryEvery {
			return conn, err
		}
		t := time.NewTimer(retryEvery)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, ctx.Err()
		}
	}
}

// toDevice is reachDevice for a local port.
func toDevice(c *cli.Context, device, service string) forward.Dial {
	return func(ctx context.Context) (net.Conn, error) {
		conn, err := reachDevice(ctx, c, device, service, reachWait)
		if err != nil {
			return nil, explainAdmin(c, err, device, "--service '"+service+"=TARGET'")
		}
		return conn, nil
	}
}

// operatorLog is where a verb that goes on says what went wrong.
func operatorLog(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelInfo}))
}
