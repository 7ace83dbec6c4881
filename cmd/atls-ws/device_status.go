package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/device"
)

// defaultState is where the packaged service keeps its state.
const defaultState = "/var/lib/atls-ws-device"

func deviceStatusCommand() *cli.Command {
	return &cli.Command{
		Name:  "status",
		Usage: "say whether the device that runs here is connected, and if not, why",
		Description: "It asks the running device, over a socket in its state directory: with --config, the one that\n" +
			"the file names. Exit status 0: connected; 1: not connected, or not running.",
		Flags: []cli.Flag{
			configFlag("configs/device.yaml"),
			&cli.StringFlag{Name: "state", Usage: "`FOLDER` of the device's state (default: " + defaultState + ")"},
			&cli.BoolFlag{Name: "json", Usage: "as a JSON object"},
		},
		Action: runDeviceStatus,
	}
}

func runDeviceStatus(c *cli.Context) error {
	if err := wantArgs(c, 0, 0); err != nil {
		return err
	}
	dir := c.String("state")
	if file := c.String("config"); dir == "" && file != "" {
		cfg, err := config.ReadDevice(file)
		if cfg == nil {
			return err
		}
		if dir = cfg.State; dir == "" {
			return withNext(errors.New("the configuration names no state directory, so there is no local status"), "add state: FOLDER to "+file+" and start the device again")
		}
	}
	if dir == "" {
		dir = defaultState
	}
	s, err := device.ReadStatus(c.Context, dir)
	if errors.Is(err, device.ErrNotRunning) {
		return withNext(err, "start it, with --state "+dir+"; as a service: systemctl start atls-ws-device, and journalctl -u atls-ws-device says why it ended")
	}
	if errors.Is(err, device.ErrNoAnswer) {
		return withNext(err, "it is stopped (kill -CONT lets it go on), or hangs on a disk or a lack of memory: look at its log and at dmesg, then start it anew")
	}
	if err != nil {
		return withNext(err, "run this as the user of the device, or as root")
	}
	if c.Bool("json") {
		err = json.NewEncoder(c.App.Writer).Encode(s)
	} else {
		err = printStatus(c, s)
	}
	if err == nil && !s.Connected {
		err = errNotConnected(s)
	}
	return err
}

func errNotConnected(s *device.Status) error {
	if s.LastError == "" {
		return withNext(errors.New("not connected yet"), "wait a moment; the first try is under way")
	}
	next := s.Next
	if next == "" {
		next = "the device tries again by itself; atls-ws doctor looks at the way step by step"
	}
	return withNext(fmt.Errorf("not connected: %s", printable(s.LastError)), printable(next))
}

func printStatus(c *cli.Context, s *device.Status) error {
	t := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	row := func(name, format string, a ...any) { _, _ = fmt.Fprintf(t, name+"\t"+format+"\n", a...) }
	ago := func(at time.Time) string {
		return at.Format(time.RFC3339) + " (" + time.Since(at).Round(time.Second).String() + " ago)"
	}
	if s.Connected {
		row("connected", "yes, since %s", ago(s.Since))
		row("device", "%s", s.Device)
		row("session", "%s", s.Session)
		row("carrier", "%s, %s", s.Carrier, s.Remote)
	} else {
		row("connected", "no, since %s", ago(s.Since))
	}
	row("server", "%s", s.URL)
	row("outer", "%s", cell(outerStatus(s.Outer)))
	row("services", "%s", cell(strings.Join(s.Services, ", ")))
	row("sessions", "%d since %s", s.Sessions, s.Started.Format(time.RFC3339))
	if s.LastError != "" {
		row("last error", "%s, %s", cell(s.LastError), ago(s.ErrorAt))
	}
	if !s.RetryAt.IsZero() && !s.Connected {
		row("next try", "in %s, after %d that failed", max(0, time.Until(s.RetryAt)).Round(time.Second), s.Failures)
	}
	if !s.CertificateEnd.IsZero() {
		row("certificate", "until %s", s.CertificateEnd.Format(time.DateOnly))
	}
	if s.StateError != "" {
		row("state", "not kept since %s: %s", ago(s.StateSince), cell(s.StateError))
	}
	if s.ClockNotSet {
		row("clock", "not set: certificates are judged by a later time that has passed for certain")
	}
	return t.Flush()
}

func outerStatus(o *device.OuterStatus) string {
	switch {
	case o == nil:
		return "no TLS, or no session yet"
	case o.Intercepted != nil && *o.Intercepted && o.Verified:
		return "intercepted by " + o.Issuer + ", verified"
	case o.Intercepted != nil && *o.Intercepted:
		return "intercepted by " + o.Issuer + ", not verified"
	case o.Verified:
		return "verified, issued by " + o.Issuer
	}
	return "not verified, issued by " + o.Issuer + ": " + o.VerifyError
}
