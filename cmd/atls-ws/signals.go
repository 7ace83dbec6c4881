//go:build !device

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/atls-ws/atls-ws/internal/daemon/admin"
)

func signalsCommand() *cli.Command {
	asJSON := &cli.BoolFlag{Name: "json", Usage: "as JSON"}
	device := func(usage string) cli.Flag { return &cli.StringFlag{Name: "device", Usage: usage} }
	return &cli.Command{
		Name:  "signals",
		Usage: "list, show or cancel signals that were pushed",
		Subcommands: []*cli.Command{
			{
				Name: "ls", Usage: "list the latest signals, or those that wait for a device", Action: signalsLs,
				Flags: []cli.Flag{adminFlag(), device("those that wait for the device `ID`, in their order"),
					&cli.IntFlag{Name: "limit", Value: 50, Usage: "how many"}, asJSON},
			},
			{
				Name: "show", Usage: "say what became of a signal at each of its devices", ArgsUsage: "ID", Action: signalsShow,
				Description: "queued: on the server's disk. delivered: the device has it and has not answered. acked, refused: the\n" +
					"device's answer. expired, dropped (for a newer one, the queue was full), cancelled: it never will be handled.",
				Flags: []cli.Flag{adminFlag(), asJSON},
			},
			{
				Name: "cancel", Usage: "take a signal back where it has not been delivered", ArgsUsage: "ID", Action: signalsCancel,
				Description: "Exit status 0: it is cancelled at every device. 1: some device has it.",
				Flags:       []cli.Flag{adminFlag(), device("only at the device `ID`"), asJSON},
			},
		},
	}
}

func signalsLs(c *cli.Context) error {
	if err := wantArgs(c, 0, 0); err != nil {
		return err
	}
	if device := c.String("device"); device != "" {
		all, err := adminClient(c).Queue(c.Context, device)
		if err != nil {
			return explainAdmin(c, err, device, "")
		}
		if c.Bool("json") {
			return json.NewEncoder(c.App.Writer).Encode(all)
		}
		return table(c, "ID\tNAME\tBYTES\tSENT\tEXPIRES\tSTATE", func(t *tabwriter.Writer) {
			for _, s := range all {
				_, _ = fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\t%s\n", s.ID, cell(s.Name), s.Bytes, stamp(s.Created), stamp(s.Expires), s.State)
			}
		})
	}
	all, err := adminClient(c).Signals(c.Context, c.Int("limit"))
	if err != nil {
		return explainAdmin(c, err, "", "")
	}
	if c.Bool("json") {
		return json.NewEncoder(c.App.Writer).Encode(all)
	}
	return table(c, "ID\tNAME\tTO\tBYTES\tSENT\tEXPIRES", func(t *tabwriter.Writer) {
		for _, s := range all {
			_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\t%s\n", s.ID, cell(s.Name), cell(s.Target), s.Bytes, stamp(s.Created), stamp(s.Expires))
		}
	})
}

func signalsShow(c *cli.Context) error {
	if err := wantArgs(c, 1, 1); err != nil {
		return err
	}
	s, err := adminClient(c).Signal(c.Context, c.Args().First())
	if err != nil {
		return explainSignal(c, err)
	}
	if c.Bool("json") {
		return json.NewEncoder(c.App.Writer).Encode(s)
	}
	if s.Name != "" {
		_, _ = fmt.Fprintf(c.App.Writer, "signal %s %s to %s, sent %s, expires %s\n", s.ID, cell(s.Name), cell(s.Target), stamp(s.Created), stamp(s.Expires))
		if !s.Complete {
			_, _ = fmt.Fprintf(c.App.Writer, "the server stopped before every device was reached: push it again with --id %s\n", s.ID)
		}
	}
	_, _ = fmt.Fprintln(c.App.Writer, counts(s.Devices, s.Counts))
	return outcomes(c, s.Outcomes)
}

func signalsCancel(c *cli.Context) error {
	if err := wantArgs(c, 1, 1); err != nil {
		return err
	}
	all, err := adminClient(c).Cancel(c.Context, c.Args().First(), c.String("device"))
	if err != nil {
		return explainSignal(c, err)
	}
	kept := 0
	for _, o := range all {
		if o.State != admin.Cancelled {
			kept++
		}
	}
	if c.Bool("json") {
		err = json.NewEncoder(c.App.Writer).Encode(all)
	} else {
		err = outcomes(c, all)
	}
	if kept > 0 {
		err = errors.Join(err, withNext(fmt.Errorf("not cancelled at %d of %d devices", kept, len(all)), "the table says why: what a device has, it handles"))
	}
	return err
}

func outcomes(c *cli.Context, all []admin.Outcome) error {
	return table(c, "DEVICE\tSTATE\tSINCE\tTEXT", func(t *tabwriter.Writer) {
		for _, o := range all {
			text := o.Text
			if o.Code != "" && o.Code != o.State {
				text = o.Code + ": " + text
			}
			_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", o.Device, o.State, stamp(o.Time), cell(text))
		}
	})
}

func table(c *cli.Context, head string, rows func(*tabwriter.Writer)) error {
	t := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, head)
	rows(t)
	return t.Flush()
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// explainSignal adds the next step to an error about a signal's id.
func explainSignal(c *cli.Context, err error) error {
	var outcome *admin.OutcomeError
	if errors.As(err, &outcome) && (outcome.State == admin.Unknown || outcome.State == admin.Failed) {
		return withNext(errors.New(outcome.Text), "see the latest with: atls-ws signals ls")
	}
	return explainAdmin(c, err, "", "")
}
