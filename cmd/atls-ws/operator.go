//go:build !device

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/atls-ws/atls-ws/internal/daemon/admin"
)

func adminFlag() cli.Flag {
	return &cli.StringFlag{Name: "admin", Usage: "`SOCKET` of the server's admin API (default: " + admin.DefaultPath() + ")", EnvVars: []string{"ATLS_WS_ADMIN"}}
}

func adminClient(c *cli.Context) *admin.Client { return admin.NewClient(c.String("admin")) }

// completeDevices offers the devices that are connected as the first argument.
func completeDevices(c *cli.Context) {
	if strings.HasPrefix(os.Args[len(os.Args)-2], "-") || c.NArg() > 0 {
		cli.DefaultCompleteWithFlags(c.Command)(c)
		return
	}
	all, _ := adminClient(c).Devices(c.Context) // nothing to offer without a server
	for _, d := range all {
		_, _ = fmt.Fprintln(c.App.Writer, d.Device)
	}
}

// explainAdmin adds the next step to an error of the admin client. device and
// thing, a signal or a service, are what the verb was about.
func explainAdmin(c *cli.Context, err error, device, thing string) error {
	var unreachable *admin.UnreachableError
	var outcome *admin.OutcomeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &unreachable):
		return withNext(err, "start it with: atls-ws server; or name its socket with --admin or ATLS_WS_ADMIN")
	case errors.Is(err, context.Canceled):
		return interrupted(c.Context, err)
	case !errors.As(err, &outcome):
		return err
	}
	if device != "" {
		err = errors.New("device " + device + ": " + outcome.Error())
	}
	switch {
	case outcome.Next != "":
		return withNext(err, outcome.Next)
	case outcome.State == admin.Failed && device == "":
		return withNext(errors.New(outcome.Text), "see atls-ws "+c.Command.FullName()+" --help")
	case outcome.State == admin.NotConnected:
		return withNext(err, "see who is connected with: atls-ws devices")
	case outcome.State == admin.Timeout:
		return withNext(err, "the server is busy or hangs: its log says more")
	case outcome.State == admin.Refused && outcome.Code == "not found":
		return withNext(err, "start the device with "+thing)
	case outcome.State == admin.Refused:
		return withNext(err, "the device's log says more")
	}
	return withNext(err, "the server's log says more")
}

// interrupted makes the end of a verb by Ctrl-C a failure: it is not done.
func interrupted(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return err
}
