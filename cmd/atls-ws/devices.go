//go:build !device

package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/atls-ws/atls-ws/internal/daemon/admin"
)

func devicesCommand() *cli.Command {
	return &cli.Command{
		Name:  "devices",
		Usage: "list the devices that are connected",
		Description: "OUTER is what the device met on the way: a verified certificate, one that it has no reason to\n" +
			"trust, or, where this server terminates TLS itself, the middlebox that intercepts.",
		Flags: []cli.Flag{adminFlag(), &cli.BoolFlag{Name: "json", Usage: "as a JSON array, with the whole outer report"}},
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, 0, 0); err != nil {
				return err
			}
			all, err := adminClient(c).Devices(c.Context)
			if err != nil {
				return explainAdmin(c, err, "", "")
			}
			if c.Bool("json") {
				return json.NewEncoder(c.App.Writer).Encode(all)
			}
			t := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
			_, _ = fmt.Fprintln(t, "DEVICE\tSESSION\tSINCE\tADDRESS\tCARRIER\tOUTER\tSERVICES")
			for _, d := range all {
				services := strings.Join(d.Services, ",")
				if services == "" {
					services = "-"
				}
				_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", d.Device, d.Session, d.Since.UTC().Format(time.RFC3339),
					d.Address, cell(d.Carrier), cell(outerWords(d)), cell(services))
			}
			return t.Flush()
		},
	}
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
