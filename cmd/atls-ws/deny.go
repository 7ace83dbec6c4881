//go:build !device

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/atls-ws/atls-ws/internal/daemon/admin"
)

func disconnectCommand() *cli.Command {
	return &cli.Command{
		Name:         "disconnect",
		Usage:        "end the session of a device, which then connects again",
		ArgsUsage:    "DEVICE",
		Description:  "Its streams are cut. To keep a device away:  atls-ws deny DEVICE",
		BashComplete: completeDevices,
		Flags:        []cli.Flag{adminFlag(), &cli.StringFlag{Name: "text", Usage: "`TEXT` that the device finds in its log"}},
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, 1, 1); err != nil {
				return err
			}
			device := c.Args().First()
			d, err := adminClient(c).Disconnect(c.Context, device, c.String("text"))
			if err != nil {
				return explainAdmin(c, err, device, "")
			}
			_, err = fmt.Fprintf(c.App.Writer, "%s: %s ended\n", d.Device, counted(d.Sessions, "session"))
			return err
		},
	}
}

func denyCommand() *cli.Command {
	return &cli.Command{
		Name:      "deny",
		Usage:     "keep a device away, or list the devices that are denied",
		ArgsUsage: "[DEVICE]",
		Description: "Its sessions end within seconds and it gets no new one, until atls-ws allow DEVICE. The device is not told\n" +
			"the reason. Signals go on waiting for it until they expire. Whole groups: deny in the server's configuration.",
		BashComplete: completeDevices,
		Flags: []cli.Flag{adminFlag(), &cli.StringFlag{Name: "reason", Usage: "`TEXT` for those who ask later"},
			&cli.BoolFlag{Name: "json", Usage: "as JSON"}},
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, 0, 1); err != nil {
				return err
			}
			if c.NArg() == 0 {
				if c.IsSet("reason") {
					return usagef(c, "want %s: DEVICE is missing", c.Command.ArgsUsage)
				}
				return denials(c)
			}
			device := c.Args().First()
			d, err := adminClient(c).Deny(c.Context, device, c.String("reason"))
			if err != nil {
				return explainAdmin(c, err, device, "")
			}
			if c.Bool("json") {
				return json.NewEncoder(c.App.Writer).Encode(d)
			}
			_, err = fmt.Fprintf(c.App.Writer, "%s is denied\n", device)
			return err
		},
	}
}

func denials(c *cli.Context) error {
	all, err := adminClient(c).Denials(c.Context)
	if err != nil {
		return explainAdmin(c, err, "", "")
	}
	if c.Bool("json") {
		return json.NewEncoder(c.App.Writer).Encode(all)
	}
	return table(c, "DEVICE\tSINCE\tBY\tREASON", func(t *tabwriter.Writer) {
		for _, d := range all {
			since, by, reason := "-", d.By, d.Reason
			if !d.Since.IsZero() {
				since = stamp(d.Since)
			}
			if d.Rule != "" {
				by, reason = "configuration", d.Rule
			}
			_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", d.Device, since, cell(by), cell(reason))
		}
	})
}

// denialWords says why a device is denied.
func denialWords(d *admin.Denial) string {
	if d.Rule != "" {
		return "by the configuration: " + d.Rule
	}
	words := fmt.Sprintf("by %s, %s", d.By, stamp(d.Since))
	if d.Reason != "" {
		words += ": " + d.Reason
	}
	return words
}

func allowCommand() *cli.Command {
	return &cli.Command{
		Name:      "allow",
		Usage:     "let a device in again that was denied",
		ArgsUsage: "DEVICE",
		Flags:     []cli.Flag{adminFlag()},
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, 1, 1); err != nil {
				return err
			}
			device := c.Args().First()
			if _, err := adminClient(c).Allow(c.Context, device); err != nil {
				return explainUnknown(c, err, "see who is denied with: atls-ws deny")
			}
			_, err := fmt.Fprintf(c.App.Writer, "%s is allowed again; it connects within a quarter of an hour, or at once when it is restarted\n", device)
			return err
		},
	}
}

func groupsCommand() *cli.Command {
	return &cli.Command{
		Name:        "groups",
		Usage:       "list the groups of devices, or the devices of one",
		ArgsUsage:   "[GROUP]",
		Description: "They are under groups in the server's configuration, and in the certificates of devices (subject OU).",
		Flags:       []cli.Flag{adminFlag(), &cli.BoolFlag{Name: "json", Usage: "as JSON"}},
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, 0, 1); err != nil {
				return err
			}
			if name := c.Args().First(); name != "" {
				return oneGroup(c, name)
			}
			all, err := adminClient(c).Groups(c.Context)
			if err != nil {
				return explainAdmin(c, err, "", "")
			}
			if c.Bool("json") {
				return json.NewEncoder(c.App.Writer).Encode(all)
			}
			return table(c, "GROUP\tMEMBERS\tCONNECTED\tDEVICES\tOU", func(t *tabwriter.Writer) {
				for _, g := range all {
					_, _ = fmt.Fprintf(t, "%s\t%d\t%d\t%s\t%s\n", cell(g.Name), g.Count, g.Connected, list(g.Devices), list(g.OU))
				}
			})
		},
	}
}

func oneGroup(c *cli.Context, name string) error {
	g, err := adminClient(c).Group(c.Context, name)
	if err != nil {
		return explainUnknown(c, err, "see which there are with: atls-ws groups")
	}
	if c.Bool("json") {
		return json.NewEncoder(c.App.Writer).Encode(g)
	}
	return table(c, "DEVICE\tSTATE", func(t *tabwriter.Writer) {
		for _, m := range g.Members {
			state := "offline"
			if m.Connected {
				state = "connected"
			}
			_, _ = fmt.Fprintf(t, "%s\t%s\n", m.Device, state)
		}
	})
}

// explainUnknown is explainAdmin for something that may not be there.
func explainUnknown(c *cli.Context, err error, next string) error {
	var outcome *admin.OutcomeError
	if errors.As(err, &outcome) && outcome.State == admin.Unknown {
		return withNext(errors.New(outcome.Text), next)
	}
	return explainAdmin(c, err, "", "")
}
