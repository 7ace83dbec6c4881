package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/device"
)

const (
	bootstrapTimeout = 2 * time.Minute // for one round: two sessions, each over up to two carriers
	bootstrapRetry   = time.Minute     // after the first failure with --interval; it doubles
	leastInterval    = time.Second
)

func bootstrapCommand() *cli.Command {
	flags := append([]cli.Flag{configFlag("configs/device.yaml")}, sessionFlags()...)
	flags = append(flags,
		&cli.StringFlag{Name: "out", Usage: "`FILE` to write, PEM (default: outer.roots of the configuration)"},
		&cli.DurationFlag{Name: "interval", Usage: "keep running and refresh the file each `TIME`, such as 12h"},
		&cli.BoolFlag{Name: "json", Usage: "say on stdout in JSON what was met and written, a line a round"},
	)
	return &cli.Command{
		Name:  "bootstrap",
		Usage: "get the anchors of this network's middlebox from the service, for every HTTPS client of this device",
		Description: "The service is asked inside the end-to-end session, and gives only what its operator has\n" +
			"configured for the certificate that this device meets. The file is replaced in one step, after\n" +
			"a new connection has verified strictly with it; whatever fails, the old one stays.\n" +
			"With --voucher the device first learns whom to trust inside; without --out that is all.",
		Flags:  append(append(flags, voucherFlags()...), logFlags()...),
		Action: runBootstrap,
	}
}

func runBootstrap(c *cli.Context) error {
	if err := wantArgs(c, 0, 0); err != nil {
		return err
	}
	if c.IsSet("voucher") {
		if err := runVoucher(c); err != nil || !c.IsSet("out") {
			return err
		}
	}
	cfg, err := deviceConfig(c)
	if err != nil {
		return err
	}
	b := &bootstrap{cfg: cfg, file: cfg.Outer.Roots, json: c.Bool("json"), out: c.App.Writer, errOut: c.App.ErrWriter}
	if c.IsSet("out") {
		b.file = c.String("out")
	}
	interval := c.Duration("interval")
	switch {
	case b.file == "":
		return usagef(c, "--out: missing: name the file to write")
	case c.IsSet("interval") && interval < leastInterval:
		return usagef(c, "--interval %s: want %s or more", interval, leastInterval)
	}
	b.log = cfg.Log.Logger(c.App.ErrWriter)
	if interval > 0 {
		return b.keep(c.Context, interval)
	}
	t, err := b.round(c.Context)
	if err != nil {
		return err
	}
	return b.say(t)
}

// bootstrap is a run of the verb.
type bootstrap struct {
	cfg         *config.Device
	file        string
	json        bool
	out, errOut io.Writer
	log         *slog.Logger
}

func (b *bootstrap) round(ctx context.Context) (*client.Trust, error) {
	ctx, cancel := context.WithTimeout(ctx, bootstrapTimeout)
	defer cancel()
	t, err := device.Bootstrap(ctx, b.cfg, b.file, device.Options{Logger: b.log, Software: "atls-ws/" + version()})
	return t, b.explain(err)
}

// keep refreshes the bundle until ctx ends.
func (b *bootstrap) keep(ctx context.Context, interval time.Duration) error {
	failures := 0
	for said := false; ; {
		t, err := b.round(ctx)
		wait := interval
		switch {
		case ctx.Err() != nil:
			return nil // asked to stop: done
		case err != nil:
			wait = min(interval, bootstrapRetry<<min(failures, 10))
			failures++
			message, next := words(err)
			b.log.Warn("bundle not refreshed, the old one stays", "file", b.file, "reason", message, "next", next)
		default:
			failures = 0
			b.log.Info("bundle refreshed", "file", t.File, "changed", t.Changed, "anchors", len(t.Anchors), "outer_issuer", t.Issuer)
			if !said || t.Changed || b.json {
				said = true
				if err := b.say(t); err != nil {
					return err
				}
			}
		}
		timer := time.NewTimer(wait - wait/10 + rand.N(wait/5+1)) // a fleet does not come all at once
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// say tells what was met and written, and what to do with it.
func (b *bootstrap) say(t *client.Trust) error {
	if b.json {
		return json.NewEncoder(b.out).Encode(t)
	}
	verdict := "does not verify with the system's roots"
	switch {
	case t.System:
		verdict = "verifies with the system's roots"
	case t.Known:
		verdict += ", but did with the bundle as it was"
	}
	_, _ = fmt.Fprintf(b.out, "met: a certificate issued by %q, which %s\n", t.Issuer, verdict)
	switch {
	case len(t.Anchors) == 0:
		_, err := fmt.Fprintln(b.out, "nothing was written: the service has no anchors for this network, and none are needed")
		return err
	case t.Changed:
		_, _ = fmt.Fprintf(b.out, "written: %s, with the anchors that the service has for this network\n", t.File)
	case t.Served:
		_, _ = fmt.Fprintf(b.out, "unchanged: %s, which has the anchors that the service has for this network\n", t.File)
	default:
		_, _ = fmt.Fprintf(b.out, "unchanged: %s; the service has no anchors for this network now\n", t.File)
	}
	for _, a := range t.Anchors {
		_, _ = fmt.Fprintf(b.out, "  %s, until %s, sha256 %s\n", a.Subject, a.NotAfter.UTC().Format(time.DateOnly), a.SHA256)
	}
	if _, err := fmt.Fprintln(b.out, "checked: a new connection verifies strictly with it"); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(b.errOut, "Next, for any HTTPS client:  curl --cacert %[1]s URL\nand for the device:  atls-ws device --outer-roots %[1]s ...\n", shell(t.File))
	return nil
}

// explain says why there is no new bundle, and what can be done about it.
func (b *bootstrap) explain(err error) error {
	var path *fs.PathError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, client.ErrNoAnchors):
		return withNext(err, "ask the service's operator to put the CA of this network's middlebox into the server's anchors")
	case errors.Is(err, client.ErrBundle):
		return withNext(err, "the old bundle stays; check this device's clock, and tell the service's operator: the server's anchors are wrong for this network")
	case errors.Is(err, client.ErrNoOuterTLS):
		return withNext(err, "give an https URL: over plain HTTP there is nothing to verify")
	case errors.Is(err, client.ErrNotBundle):
		return withNext(err, "name another file with --out, or remove that one")
	case errors.Is(err, client.ErrUnproven):
		return withNext(err, "the old bundle stays; try again, and look at the way with: atls-ws doctor. Where several middleboxes take turns, the server's anchors may lack one")
	case errors.As(err, &path):
		return withNext(err, "name a file with --out in a folder that is there and can be written")
	}
	return explain(err, b.cfg)
}
