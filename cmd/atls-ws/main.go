// Command atls-ws connects devices behind TLS-intercepting middleboxes with
// their service: "atls-ws server" is the service's side, "atls-ws device" the
// device's, and the other verbs are for operators. The build tag device
// leaves only what a device needs.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"
)

func main() { os.Exit(run(os.Args, os.Stdin, os.Stdout, os.Stderr)) }

// run is the program; it returns the exit code: 0 done, 1 failed, 2 usage.
func run(args []string, in io.Reader, out, errOut io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal asks for an orderly end, the second ends the process.
	defer context.AfterFunc(ctx, stop)()
	app := newApp()
	app.Reader, app.Writer, app.ErrWriter = in, out, errOut
	return report(errOut, app.RunContext(ctx, args))
}

func newApp() *cli.App {
	app := &cli.App{
		Name:                      "atls-ws",
		Usage:                     "an end-to-end TLS session between a device and its service, through whatever is between them",
		Description:               firstSteps,
		HideVersion:               true,
		EnableBashCompletion:      true,
		DisableSliceFlagSeparator: true, // a command given to --on may contain a comma
		Commands:                  append(commands(), deviceCommand(), bootstrapCommand(), doctorCommand(), versionCommand(), completionCommand()),
		ExitErrHandler:            func(*cli.Context, error) {}, // run reports
		OnUsageError:              onUsageError,
		Action:                    noCommand,
	}
	strict(app.Commands)
	return app
}

// strict makes wrong flags and unknown subcommands usage errors everywhere.
func strict(commands []*cli.Command) {
	for _, c := range commands {
		c.OnUsageError = onUsageError
		if len(c.Subcommands) > 0 && c.Action == nil {
			c.Action = noCommand
		}
		strict(c.Subcommands)
	}
}

func onUsageError(c *cli.Context, err error, _ bool) error {
	return usagef(c, "%w", err)
}

// noCommand is what runs when no command's name was given.
func noCommand(c *cli.Context) error {
	if name := c.Args().First(); name != "" {
		return usagef(c, "there is no command %q", name)
	}
	if len(c.Lineage()) == 2 { // the program's own context and its parent
		cli.HelpPrinter(c.App.ErrWriter, cli.AppHelpTemplate, c.App)
	}
	return usagef(c, "a command is missing")
}

// wantArgs checks the number of arguments.
func wantArgs(c *cli.Context, least, most int) error {
	if n := c.NArg(); n < least {
		return usagef(c, "want %s: an argument is missing", c.Command.ArgsUsage)
	} else if n > most {
		if most == 0 {
			return usagef(c, "%q: no argument is wanted", c.Args().First())
		}
		return usagef(c, "want %s: there are more arguments (flags go before them)", c.Command.ArgsUsage)
	}
	return nil
}

// usagef makes an error of the command line, whose next step is the help.
func usagef(c *cli.Context, format string, a ...any) error {
	help := "atls-ws --help"
	if c.Command != nil && c.Command.Name != "" && c.Command.Name != c.App.Name {
		help = c.Command.HelpName + " --help"
	}
	return &usageError{fmt.Errorf(format, a...), "see " + help}
}
