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
		Usage:     "send a signal to a device and print the text of its ack",
		ArgsUsage: "DEVICE NAME [DATA|-]",
		Description: "DATA - is read from standard input; at most 64 KiB. The exit code is 0 only when the device has\n" +
			"handled the signal. A device that is not connected is said at once: nothing is queued.",
		BashComplete: completeDevices,
		Flags: []cli.Flag{
			adminFlag(),
			&cli.DurationFlag{Name: "timeout", Value: admin.DefaultTimeout, Usage: "how long to wait for the ack"},
			&cli.StringFlag{Name: "content-type", Usage: "`TYPE` of the data (default: text/plain or application/octet-stream)"},
			&cli.BoolFlag{Name: "json", Usage: "print what became of it as a JSON object, of a failure too"},
		},
		Action: push,
	}
}

func push(c *cli.Context) error {
	if err := wantArgs(c, 2, 3); err != nil {
		return err
	}
	if timeout := c.Duration("timeout"); timeout < time.Millisecond || timeout > admin.MaxTimeout {
		return usagef(c, "--timeout %s: want up to %s", timeout, admin.MaxTimeout)
	}
	if err := proto.CheckName(c.Args().Get(1)); err != nil {
		return usagef(c, "NAME: %w", err)
	}
	data, err := pushData(c)
	if err != nil {
		return err
	}
	device, name, contentType := c.Args().Get(0), c.Args().Get(1), c.String("content-type")
	switch {
	case contentType != "":
	case utf8.Valid(data):
		contentType = "text/plain; charset=utf-8"
	default:
		contentType = "application/octet-stream"
	}
	text, err := adminClient(c).Push(c.Context, device, name, contentType, data, c.Duration("timeout"))
	explained := explainAdmin(c, err, device, "--on '"+name+"=COMMAND'")
	if c.Bool("json") {
		o := admin.Outcome{State: admin.Acked, Text: text}
		if outcome := (*admin.OutcomeError)(nil); errors.As(err, &outcome) {
			o = outcome.Outcome
		} else if err != nil {
			o = admin.Outcome{State: admin.Failed, Text: explained.Error()}
		}
		return errors.Join(json.NewEncoder(c.App.Writer).Encode(o), explained)
	}
	if explained != nil || text == "" {
		return explained
	}
	_, err = fmt.Fprintln(c.App.Writer, text)
	return err
}

// pushData is the third argument, or the standard input when that is "-".
func pushData(c *cli.Context) ([]byte, error) {
	data := []byte(c.Args().Get(2))
	switch {
	case strings.HasPrefix(c.Args().Get(2), "--"):
		return nil, usagef(c, "%q: flags go before DEVICE; data that begins like a flag goes to standard input, with DATA -", data)
	case string(data) == "-":
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
