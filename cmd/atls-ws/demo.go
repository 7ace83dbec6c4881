//go:build !device

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/atls-ws/atls-ws/internal/child"
	"github.com/atls-ws/atls-ws/internal/middlebox"
)

const (
	demoDevice = "pump-7"
	demoStep   = 15 * time.Second // for each step
	demoGrace  = 5 * time.Second  // for each process to end
)

func demoCommand() *cli.Command {
	return &cli.Command{
		Name:  "demo",
		Usage: "show the whole path on this machine: a device behind an intercepting middlebox gets a pushed signal",
		Description: "Makes a throw-away PKI, starts a server, a TLS-intercepting middlebox and a device behind it as\n" +
			"real processes on loopback, pushes a signal, fetches a web page of the device, and stops everything.\n" +
			"Ctrl-C ends it at any moment and leaves nothing behind.",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "cluster", Usage: "instead show three nodes with 200 devices: one is killed while signals are pushed, then each is restarted"}},
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, 0, 0); err != nil {
				return err
			}
			if c.Bool("cluster") {
				// Devices are in this process: SIGPIPE is also of their connections.
				signal.Ignore(syscall.SIGPIPE)
				ctx, stop := signal.NotifyContext(c.Context, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
				defer stop()
				return runClusterDemo(ctx, stop, c.App.Writer)
			}
			ctx, stop := signal.NotifyContext(c.Context, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
			defer stop() // after everything is gone: a second Ctrl-C waits too
			return runDemo(ctx, c.App.Writer)
		},
	}
}

// demo is a run of the demo: what it started, and what a step tells the next.
type demo struct {
	ctx   context.Context // ends at Ctrl-C
	out   io.Writer
	step  time.Duration // for each step
	again string        // the command
	exe   string
	dir   string
	n     int // the step
	ends  []func()

	children []*child.Child
	box      *middlebox.Proxy
	addr     string // of the server
	page     string // of the device: a URL
}

func runDemo(ctx context.Context, out io.Writer) error {
	d := &demo{ctx: ctx, out: out, step: demoStep, again: "atls-ws demo"}
	return d.play(d.makePKI, d.startServer, d.startMiddlebox, d.startDevice, d.compareOuterAndInner, d.pushSignal, d.fetchPage, d.stop)
}

// play goes through the steps, and stops everything at the end or on the way.
func (d *demo) play(steps ...func(context.Context) error) (err error) {
	ctx := d.ctx
	defer func() {
		tails := ""
		for _, c := range d.children {
			tails += c.Tail(15)
		}
		for i := len(d.ends) - 1; i >= 0; i-- {
			d.ends[i]()
		}
		switch {
		case ctx.Err() != nil:
			err = withNext(errors.New("interrupted; every process is stopped and the temporary files are removed"), d.again)
		case err != nil:
			err = withNext(fmt.Errorf("step %d: %w\n%s", d.n, err, tails), "the log lines above say what went wrong; run "+d.again+" again")
		}
	}()
	for _, step := range steps {
		d.n++
		sctx, cancel := context.WithTimeout(ctx, d.step)
		err := step(sctx)
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

// say prints the step's headline; tell a line below it.
func (d *demo) say(format string, a ...any) {
	_, _ = fmt.Fprintf(d.out, "\n%d. %s\n", d.n, fmt.Sprintf(format, a...))
}

func (d *demo) tell(format string, a ...any) {
	_, _ = fmt.Fprintf(d.out, "   %s\n", fmt.Sprintf(format, a...))
}

func (d *demo) path(name ...string) string { return filepath.Join(append([]string{d.dir}, name...)...) }

// command is a verb of this binary. What the environment sets for the person's
// own servers and devices is not for those of the demo.
func (d *demo) command(args ...string) *exec.Cmd {
	cmd := exec.Command(d.exe, args...)
	cmd.Dir = d.dir
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "ATLS_WS_") })
	return cmd
}

// start runs a verb of this binary as a process that lives until the end.
func (d *demo) start(name string, args ...string) (*child.Child, error) {
	if err := d.ctx.Err(); err != nil {
		return nil, err
	}
	cmd := d.command(args...)
	c, err := child.Start(name, cmd)
	if err != nil {
		return nil, err
	}
	d.children = append(d.children, c)
	d.ends = append(d.ends, func() { c.Stop(demoGrace) })
	return c, nil
}

// run runs a verb of this binary to its end and returns its stdout.
func (d *demo) run(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	var out bytes.Buffer
	cmd := d.command(args...)
	cmd.Stdin, cmd.Stdout = stdin, &out
	c, err := child.Start(args[0], cmd)
	if err != nil {
		return nil, err
	}
	select {
	case <-c.Done():
	case <-ctx.Done():
		c.Stop(demoGrace)
		return nil, fmt.Errorf("atls-ws %s: %w\n%s", args[0], ctx.Err(), c.Tail(10))
	}
	if c.ExitCode() != 0 {
		return nil, fmt.Errorf("atls-ws %s exits %d\n%s", args[0], c.ExitCode(), c.Tail(10))
	}
	return out.Bytes(), nil
}
