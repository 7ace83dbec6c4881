//go:build !device

package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/atls-ws/atls-ws/internal/daemon/admin"
)

func devicesCommand() *cli.Command {
	return &cli.Command{
		Name:         "devices",
		Usage:        "list the devices that are connected, or say what is known of one",
		ArgsUsage:    "[DEVICE]",
		BashComplete: completeDevices,
		Description: "With DEVICE: also when it is offline, and when it was last seen and what waits for it.\n" +
			"OUTER is what the device met on the way: a verified certificate, one that it has no reason to\n" +
			"trust, or, where this server terminates TLS itself, the middlebox that intercepts.",
		Flags: []cli.Flag{adminFlag(), &cli.BoolFlag{Name: "watch", Usage: "list them, and then say a line for each that comes or goes, until interrupted"},
			&cli.BoolFlag{Name: "json", Usage: "as a JSON array, with the whole outer report"}},
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, 0, 1); err != nil {
				return err
			}
			switch device := c.Args().First(); {
			case device != "" && c.Bool("watch"):
				return usagef(c, "--watch is for all devices; of one:  atls-ws events --device %s", device)
			case device != "":
				return oneDevice(c, device)
			case c.Bool("watch"):
				return watchDevices(c)
			}
			all, err := adminClient(c).Devices(c.Context)
			if err != nil {
				return explainAdmin(c, err, "", "")
			}
			if c.Bool("json") {
				return json.NewEncoder(c.App.Writer).Encode(all)
			}
			return devicesTable(c, all)
		},
	}
}

func devicesTable(c *cli.Context, all []admin.Device) error {
	head, nodes := "DEVICE\tSESSION\tSINCE\tADDRESS\tCARRIER\tOUTER\tSERVICES", false
	if slices.ContainsFunc(all, func(d admin.Device) bool { return d.Node != "" }) {
		head, nodes = "NODE\t"+head, true
	}
	return table(c, head, func(t *tabwriter.Writer) {
		for _, d := range all {
			if nodes {
				_, _ = fmt.Fprint(t, d.Node+"\t")
			}
			_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", d.Device, d.Session, stamp(d.Since), d.Address, cell(d.Carrier), cell(outerWords(d)), list(d.Services))
		}
	})
}

// oneDevice says what is known of a device.
func oneDevice(c *cli.Context, device string) error {
	d, err := adminClient(c).Device(c.Context, device)
	if err != nil {
		return explainUnknown(c, err, "see who is connected with: atls-ws devices")
	}
	if c.Bool("json") {
		return json.NewEncoder(c.App.Writer).Encode(d)
	}
	return table(c, "DEVICE\t"+d.Device, func(t *tabwriter.Writer) {
		row := func(name, value string) {
			if value != "" {
				_, _ = fmt.Fprintf(t, "%s\t%s\n", name, value)
			}
		}
		switch {
		case d.Connected:
			row("STATE", "connected since "+stamp(d.Session.Since))
			row("NODE", d.Session.Node)
			row("SESSION", d.Session.Session)
			row("ADDRESS", d.Session.Address)
			row("OUTER", cell(outerWords(*d.Session)))
			row("SERVICES", list(d.Session.Services))
		case d.LastSeen.IsZero():
			row("STATE", "never connected here")
		default:
			row("STATE", "offline, last seen "+stamp(d.LastSeen))
		}
		row("CARRIER", cell(d.Carrier))
		row("SOFTWARE", cell(d.Software))
		row("GROUPS", list(d.Groups))
		row("WAITING", counted(d.Waiting, "signal"))
		row("SESSIONS", fmt.Sprintf("%d since the server started, %d of them intercepted, %d not verified", d.Counts.Sessions, d.Counts.Intercepted, d.Counts.Unverified))
		if d.Denied != nil {
			row("DENIED", cell(denialWords(d.Denied)))
		}
	})
}

// list is a list in a table.
func list(all []string) string {
	if len(all) == 0 {
		return "-"
	}
	return cell(strings.Join(all, ","))
}

func counted(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// outerWords says in a few words what the device met.
func outerWords(d admin.Device) string {
	if d.Outer == nil || len(d.Outer.Chain) == 0 {
		return "no TLS"
	}
	switch issuer := d.Outer.Chain[0].Issuer; {
	case d.Outer.Intercepted:
		words := fmt.Sprintf("intercepted by %s (%d of %d sessions)", issuer, d.Counts.Intercepted, d.Counts.Sessions)
		if d.Outer.Verified {
			words += ", verified"
		}
		return words
	case d.Outer.Verified:
		return "verified"
	default:
		return "not verified: issuer " + issuer
	}
}
