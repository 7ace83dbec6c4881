//go:build !device

package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/atls-ws/atls-ws/internal/daemon/admin"
)

func dialCommand() *cli.Command {
	return &cli.Command{
		Name:      "dial",
		Usage:     "connect standard input and output to a service of a device",
		ArgsUsage: "DEVICE SERVICE",
		Description: "The end of standard input is passed on; the device's end of the connection ends the command.\n" +
			"As a proxy of ssh:  ssh -o ProxyCommand='atls-ws dial DEVICE ssh' user@device",
		BashComplete: completeDevices,
		Flags: []cli.Flag{
			adminFlag(),
			&cli.BoolFlag{Name: "wait", Usage: "wait for a device that is not connected, with the signal wake in its queue, and for a server that does not answer"},
			&cli.DurationFlag{Name: "timeout", Value: 5 * time.Minute, Usage: "how long to wait with --wait"},
		},
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, 2, 2); err != nil {
				return err
			}
			wait := time.Duration(0)
			if c.Bool("wait") {
				if wait = c.Duration("timeout"); wait < time.Millisecond || wait > admin.MaxTimeout {
					return usagef(c, "--timeout %s: want up to %s", wait, admin.MaxTimeout)
				}
			}
			device, service := c.Args().Get(0), c.Args().Get(1)
			conn, err := reachDevice(c.Context, c, device, service, wait)
			if err != nil {
				return explainAdmin(c, err, device, "--service '"+service+"=TARGET'")
			}
			return interrupted(c.Context, copyBoth(c, conn))
		},
	}
}

// copyBoth ends when the device's direction does. The goroutine that reads
// standard input then ends with the process: a terminal cannot be unblocked.
func copyBoth(c *cli.Context, conn *admin.Conn) error {
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(c.Context, conn.Reset)() // what was not sent does not look like an end
	go func() {
		_, err := io.Copy(conn, c.App.Reader)
		if err == nil {
			err = conn.CloseWrite()
		}
		_ = err // the other direction says what is wrong
	}()
	_, err := io.Copy(c.App.Writer, conn)
	if err == nil || c.Err() != nil {
		return err
	}
	return withNext(fmt.Errorf("what came may be incomplete: %w", err), "look at the device with: atls-ws devices; and try again")
}
