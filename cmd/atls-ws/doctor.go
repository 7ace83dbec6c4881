package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/doctor"
)

func doctorCommand() *cli.Command {
	return &cli.Command{
		Name:      "doctor",
		Usage:     "walk a device's way to its server, step by step, and say what sits in it",
		ArgsUsage: "[URL]",
		Description: "URL is that of the server; with --config it may be left out. Without --cert and --key the way is\n" +
			"walked up to the inner handshake. It takes no running device's place. The exit code is 0 if a\n" +
			"session is possible.",
		Flags: append(append([]cli.Flag{configFlag("configs/device.yaml")}, sessionFlags()...),
			&cli.StringFlag{Name: "outer-roots", Usage: "`FILE` with CAs for the outer certificate, beside the system's"},
			&cli.DurationFlag{Name: "hold", Value: 20 * time.Second, Usage: "how long to hold a POST, to see whether it is cut; 0 leaves that out"},
			&cli.BoolFlag{Name: "json", Usage: "print the report as a JSON object"},
		),
		Action: runDoctor,
	}
}

func runDoctor(c *cli.Context) error {
	if err := wantArgs(c, 0, 1); err != nil {
		return err
	}
	if hold := c.Duration("hold"); hold < 0 || hold > 20*time.Second {
		return usagef(c, "--hold %s: want up to 20s, which is as long as a server holds a request", hold)
	}
	o, err := doctorOptions(c)
	if err != nil {
		return err
	}
	if !c.Bool("json") {
		o.OnStep = func(s doctor.Step) {
			_, _ = fmt.Fprintf(c.App.Writer, "%-28s %-8s %8.1f ms  %s\n", s.Name, s.Verdict, s.Millis, s.Text)
		}
	}
	r := doctor.Run(c.Context, *o)
	if c.Err() != nil {
		return c.Err()
	}
	if c.Bool("json") {
		err = json.NewEncoder(c.App.Writer).Encode(r)
	} else {
		tellFindings(c.App.Writer, r)
	}
	if !r.OK {
		return errors.Join(err, withNext(errors.New("no session is possible"), "see what was found above; correct it, and run this again"))
	}
	return err
}

func tellFindings(w io.Writer, r *doctor.Report) {
	_, _ = fmt.Fprintln(w, "\nWhat was found:")
	for _, f := range r.Found {
		_, _ = fmt.Fprintln(w, "  "+f)
	}
	if len(r.Tell) > 0 {
		_, _ = fmt.Fprintln(w, "\nAsk the administrator of the network to:")
		for _, t := range r.Tell {
			_, _ = fmt.Fprintln(w, "  "+t)
		}
	}
}

// doctorOptions lays the flags over the configuration file, of which nothing but
// the URL is required.
func doctorOptions(c *cli.Context) (*doctor.Options, error) {
	cfg, err := readDevice(c)
	if err != nil {
		return nil, err
	}
	if c.Args().Present() {
		cfg.URL = c.Args().First()
	}
	if cfg.URL == "" {
		return nil, usagef(c, "the URL of the server is missing")
	}
	if (cfg.Inner.Cert == "") != (cfg.Inner.Key == "") {
		return nil, usagef(c, "--cert and --key belong together")
	}
	if cfg.Inner.Cert != "" && cfg.Inner.CA == "" {
		return nil, usagef(c, "--cert needs --ca: a device shows its certificate to the server that it trusts")
	}
	u, err := client.ParseURL(cfg.URL)
	if err != nil {
		return nil, usagef(c, "%w", err)
	}
	inner, err := cfg.LookTLS()
	if err != nil {
		return nil, err
	}
	roots, err := cfg.OuterRoots()
	if err != nil {
		return nil, err
	}
	proxy, err := cfg.ProxyFunc()
	if err != nil {
		return nil, err
	}
	return &doctor.Options{
		URL: u, Inner: inner, Roots: roots, Proxy: proxy, Hold: c.Duration("hold"), Software: "atls-ws/" + version(),
	}, nil
}
