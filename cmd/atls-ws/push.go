//go:build !device

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/urfave/cli/v2"

	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/proto"
)

func pushCommand() *cli.Command {
	return &cli.Command{
		Name:      "push",
		Usage:     "send a signal to a device, a group or all devices, and say what became of it",
		ArgsUsage: "DEVICE NAME [DATA|-], or with --group or --all: NAME [DATA|-]",
		Description: "DATA - is read from standard input; at most 64 KiB. The text of a device's ack is printed. The signal\n" +
			"is on the server's disk before this waits: a device that is offline gets it when it connects.\n" +
			"Exit status 0: every device has handled it; with --no-wait, it is queued for every device. 1: anything\n" +
			"else, and the next step is said; also when a device is offline and the signal is queued for it.\n" +
			"A group's devices are those of the server's configuration and those whose certificates name it (OU).",
		BashComplete: completeDevices,
		Flags: []cli.Flag{
			adminFlag(),
			&cli.StringFlag{Name: "group", Usage: "send to the devices of the group `NAME`"},
			&cli.BoolFlag{Name: "all", Usage: "send to every device that was ever connected"},
			&cli.BoolFlag{Name: "no-wait", Usage: "be done when the signal is queued"},
			&cli.DurationFlag{Name: "timeout", Value: admin.DefaultTimeout, Usage: "how long to wait for the ack"},
			&cli.DurationFlag{Name: "ttl", Usage: "how long the signal is good for (default and most: the server's queue.max_age)"},
			&cli.StringFlag{Name: "id", Usage: "`ID` of the signal, 32 hex digits: sent again with the same one it is not handled twice (default: made)"},
			&cli.StringFlag{Name: "content-type", Usage: "`TYPE` of the data (default: text/plain or application/octet-stream)"},
			&cli.BoolFlag{Name: "json", Usage: "print what became of it as a JSON object a line, of a failure too"},
		},
		Action: push,
	}
}

func push(c *cli.Context) error {
	p, err := pushFlags(c)
	if err != nil {
		return err
	}
	if p.Device == "" {
		return pushMany(c, p)
	}
	o, err := adminClient(c).Push(c.Context, p)
	if err != nil {
		o = &admin.Outcome{State: admin.Failed, Signal: p.ID, Device: p.Device, Text: err.Error()}
		if outcome := (*admin.OutcomeError)(nil); errors.As(err, &outcome) {
			o = &outcome.Outcome
		}
		err = explainPush(c, err, p)
	} else {
		err = pushError(o, p)
	}
	switch {
	case c.Bool("json"):
		return errors.Join(json.NewEncoder(c.App.Writer).Encode(o), err)
	case err != nil:
		return err
	case o.State != admin.Acked:
		_, err = fmt.Fprintf(c.App.Writer, "%s\nsignal %s\n", o, o.Signal)
	case o.Text != "":
		_, err = fmt.Fprintln(c.App.Writer, o.Text)
	}
	return err
}

// pushFlags reads the command line.
func pushFlags(c *cli.Context) (*admin.Push, error) {
	many := c.String("group") != "" || c.Bool("all")
	least := 2
	if many {
		least = 1
	}
	if err := wantArgs(c, least, least+1); err != nil {
		return nil, err
	}
	if err := proto.CheckName(c.Args().Get(least - 1)); err != nil {
		return nil, usagef(c, "NAME: %w", err)
	}
	p := &admin.Push{Group: c.String("group"), Name: c.Args().Get(least - 1), ContentType: c.String("content-type"), ID: c.String("id"),
		TTL: c.Duration("ttl"), Timeout: c.Duration("timeout"), NoWait: c.Bool("no-wait")}
	if !many {
		p.Device = c.Args().Get(0)
	}
	switch {
	case p.Group != "" && c.Bool("all"):
		return nil, usagef(c, "--group and --all exclude each other")
	case p.Timeout < time.Millisecond || p.Timeout > admin.MaxTimeout:
		return nil, usagef(c, "--timeout %s: want up to %s", p.Timeout, admin.MaxTimeout)
	case c.IsSet("ttl") && p.TTL < time.Millisecond:
		return nil, usagef(c, "--ttl %s: want a duration such as 1h", p.TTL)
	case p.ID != "" && (len(p.ID) != 32 || strings.Trim(p.ID, "0123456789abcdef") != ""):
		return nil, usagef(c, "--id %q: want 32 hex digits", p.ID)
	}
	var err error
	if p.Data, err = pushData(c, c.Args().Get(least)); err != nil {
		return nil, err
	}
	switch {
	case p.ContentType != "":
	case utf8.Valid(p.Data):
		p.ContentType = "text/plain; charset=utf-8"
	default:
		p.ContentType = "application/octet-stream"
	}
	return p, nil
}

// pushData is the argument, or the standard input when that is "-".
func pushData(c *cli.Context, arg string) ([]byte, error) {
	data := []byte(arg)
	switch {
	case strings.HasPrefix(arg, "--"):
		return nil, usagef(c, "%q: flags go before DEVICE; data that begins like a flag goes to standard input, with DATA -", data)
	case arg == "-":
		var err error
		if data, err = io.ReadAll(io.LimitReader(c.App.Reader, admin.MaxData+1)); err != nil {
			return nil, fmt.Errorf("standard input: %w", err)
		}
	}
	if len(data) > admin.MaxData {
		return nil, withNext(errors.New("the data is over 64 KiB"), "send a reference to it, or give it a service and use: atls-ws dial")
	}
	return data, nil
}

// pushError is what a signal's state at its device means to whoever pushed it.
func pushError(o *admin.Outcome, p *admin.Push) error {
	err := fmt.Errorf("device %s: %s", p.Device, o)
	show := "atls-ws signals show " + p.ID
	switch o.State {
	case admin.Acked:
		return nil
	case admin.Queued, admin.Delivered:
		if p.NoWait {
			return nil
		}
		return withNext(err, "see what becomes of it with: "+show+"; with --no-wait queued is enough")
	case admin.Refused:
		if o.Code == "not found" {
			return withNext(err, "start the device with --on '"+p.Name+"=COMMAND'")
		}
		return withNext(err, "the device's log says more")
	case admin.Failed:
		return withNext(err, "see what waits with: atls-ws signals ls --device "+p.Device+"; cancel some, or raise the bounds of the server's queue")
	}
	return withNext(err, "push it again, with another --id")
}

// explainPush adds the next step to an error that left no outcome.
func explainPush(c *cli.Context, err error, p *admin.Push) error {
	var broken *admin.BrokenError
	var outcome *admin.OutcomeError
	switch {
	case errors.As(err, &broken), errors.As(err, &outcome) && outcome.State == admin.Timeout:
		return withNext(err, "atls-ws signals show "+p.ID+"; or push it again with --id "+p.ID+": it is not handled twice")
	case c.Context.Err() != nil:
		return withNext(errors.New("interrupted: the signal may be queued"), "atls-ws signals show "+p.ID)
	}
	return explainAdmin(c, err, p.Device, "")
}
