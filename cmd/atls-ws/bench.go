//go:build !device

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/pki"
	"github.com/atls-ws/atls-ws/internal/sim"
)

const benchEvery = 2 * time.Second // a line of progress

func benchCommand() *cli.Command {
	return &cli.Command{
		Name:  "bench",
		Usage: "size a server: simulated devices with real sessions",
		Subcommands: []*cli.Command{{
			Name:  "devices",
			Usage: "connect many devices from this process, and push to them",
			Description: "The devices' certificates are made on the spot by the authority in --pki, which the server must trust:\n" +
				"with server --dev, --pki is its --dir. Without --signals it runs until Ctrl-C. The figures go to stdout.",
			Flags: []cli.Flag{
				&cli.IntFlag{Name: "n", Value: 100, Usage: "how many devices"},
				&cli.StringFlag{Name: "url", Value: "https://" + config.DefaultListen, Usage: "`URL` of the server"},
				&cli.StringFlag{Name: "pki", Value: "pki", Usage: "`FOLDER` with the authority"},
				&cli.StringFlag{Name: "prefix", Value: "sim-", Usage: "of the devices' ids"},
				&cli.IntFlag{Name: "rate", Value: 200, Usage: "devices that begin to connect each second"},
				&cli.DurationFlag{Name: "delay", Usage: "how long a device handles a signal"},
				&cli.IntFlag{Name: "signals", Usage: "push so many signals, in turn to all devices, and end"},
				&cli.IntFlag{Name: "at-once", Value: 16, Usage: "pushes under way at once"},
				adminFlag(),
				&cli.BoolFlag{Name: "json", Usage: "print the figures as a JSON object"},
			},
			Action: benchDevices,
		}},
	}
}

// benchFigures are what bench devices prints.
type benchFigures struct {
	Devices int `json:"devices"`
	sim.Stats
	Acked         int             `json:"acked"`
	NotAcked      int             `json:"not_acked"`
	AcksPerSecond float64         `json:"acks_per_second"`
	Ack           sim.Percentiles `json:"ack"` // from the push to its answer
}

func benchDevices(c *cli.Context) error {
	if err := wantArgs(c, 0, 0); err != nil {
		return err
	}
	n, rate := c.Int("n"), c.Int("rate")
	if n < 1 || rate < 1 || c.Int("at-once") < 1 || c.Int("signals") < 0 {
		return usagef(c, "-n, --rate and --at-once: want at least 1")
	}
	ca, err := pki.LoadCA(c.String("pki"))
	if err != nil {
		return withNext(err, "name the folder of the authority with --pki: that of atls-ws pki init, or --dir of server --dev")
	}
	f, err := sim.New(sim.Options{URL: c.String("url"), CA: ca, Prefix: c.String("prefix"), Count: n, Delay: c.Duration("delay"),
		Handle: func(string, client.Signal) (string, error) { return "", nil }})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(c.Context)
	var run sync.WaitGroup
	run.Go(func() { f.Run(ctx, 0, n, rate) })
	defer run.Wait()
	defer cancel()
	figures := benchFigures{Devices: n}
	err = benchConnect(ctx, c.App.ErrWriter, f, n, rate)
	if err == nil && c.Int("signals") > 0 {
		err = benchPush(ctx, c, f, &figures)
	} else if err == nil {
		<-ctx.Done()
	}
	figures.Stats = f.Stats()
	if c.Bool("json") {
		return errors.Join(json.NewEncoder(c.App.Writer).Encode(figures), err)
	}
	figures.print(c.App.Writer)
	return err
}

// benchConnect waits until all devices have a session.
func benchConnect(ctx context.Context, w io.Writer, f *sim.Fleet, n, rate int) error {
	end := time.Now().Add(time.Minute + time.Duration(n/rate)*time.Second)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	said := time.Now()
	for f.Stats().Up < n {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.New("interrupted")
		}
		if time.Since(said) > benchEvery {
			said = time.Now()
			_, _ = fmt.Fprintf(w, "%d of %d devices are connected\n", f.Stats().Up, n)
		}
		if time.Now().After(end) {
			return withNext(fmt.Errorf("only %d of %d devices could connect", f.Stats().Up, n), "see the server's log, and its limits.sessions and limits.half_open")
		}
	}
	return nil
}

func benchPush(ctx context.Context, c *cli.Context, f *sim.Fleet, figures *benchFigures) error {
	var mu sync.Mutex
	var took []time.Duration
	var failed error
	next, total := 0, c.Int("signals")
	started := time.Now()
	var pushing sync.WaitGroup
	for range c.Int("at-once") {
		pushing.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				stop := i >= total || failed != nil
				mu.Unlock()
				if stop {
					return
				}
				begun := time.Now()
				o, err := adminClient(c).Push(ctx, &admin.Push{Device: f.ID(i % figures.Devices), Name: "bench", Data: []byte("0123456789")})
				mu.Lock()
				switch {
				case err != nil:
					failed = err
				case o.State == admin.Acked:
					took = append(took, time.Since(begun))
				default:
					figures.NotAcked++
				}
				mu.Unlock()
			}
		})
	}
	pushing.Wait()
	figures.Acked, figures.Ack = len(took), sim.PercentilesOf(took)
	figures.AcksPerSecond = float64(len(took)) / time.Since(started).Seconds()
	return explainAdmin(c, failed, "", "")
}

func (b *benchFigures) print(w io.Writer) {
	_, _ = fmt.Fprintf(w, "%d devices, %d sessions, %.0f connects/s; connect: %s\n", b.Devices, b.Sessions, b.ConnectsPerSecond, b.Connect)
	if again := b.Sessions - b.Devices; again > 0 {
		_, _ = fmt.Fprintf(w, "%d reconnections, in the busiest second %d\n", again, b.Busiest)
	}
	if b.Acked+b.NotAcked > 0 {
		_, _ = fmt.Fprintf(w, "%d signals acked, %d not; %.0f acks/s; push to ack: %s\n", b.Acked, b.NotAcked, b.AcksPerSecond, b.Ack)
	} else {
		_, _ = fmt.Fprintf(w, "%d signals handled\n", b.Signals)
	}
}
