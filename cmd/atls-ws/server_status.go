//go:build !device

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/atls-ws/atls-ws/internal/daemon/admin"
)

// statusTime bounds the question to a server that hangs.
const statusTime = 5 * time.Second

func serverStatusCommand() *cli.Command {
	return &cli.Command{
		Name:  "status",
		Usage: "say whether the server that runs here takes devices and signals, and if not, why",
		Description: "It asks /readyz at the admin socket. Exit status 0: it does; 1: it does not, or does not run. For probes\n" +
			"where there is nothing to ask with, as in a container.",
		Flags: []cli.Flag{
			adminFlag(),
			&cli.BoolFlag{Name: "alive", Usage: "ask /healthz instead: 1 only when a new start can help"},
			&cli.BoolFlag{Name: "json", Usage: "as a JSON object"},
		},
		Action: runServerStatus,
	}
}

func runServerStatus(c *cli.Context) error {
	if err := wantArgs(c, 0, 0); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context, statusTime)
	defer cancel()
	ask := adminClient(c).Ready
	if c.Bool("alive") {
		ask = adminClient(c).Alive
	}
	h, err := ask(ctx)
	if err != nil {
		return explainAdmin(c, err, "", "")
	}
	if c.Bool("json") {
		err = json.NewEncoder(c.App.Writer).Encode(h)
	} else {
		err = printHealth(c, h)
	}
	if h.Status != admin.HealthOK {
		err = errors.Join(err, errNotReady(h))
	}
	return err
}

func printHealth(c *cli.Context, h *admin.Health) error {
	t := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	for _, check := range h.Checks {
		answer := "yes"
		if !check.OK {
			answer = "no: " + cell(check.Reason)
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\n", check.Name, answer)
	}
	return t.Flush()
}

// errNotReady is of the first check that decided.
func errNotReady(h *admin.Health) error {
	for _, check := range h.Checks {
		if !check.OK {
			next := check.Next
			if next == "" {
				next = "the server's log says more"
			}
			return withNext(errors.New("not ready: "+printable(check.Reason)), printable(next))
		}
	}
	return errors.New("not ready")
}
