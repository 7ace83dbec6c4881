//go:build !device

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/atls-ws/atls-ws/internal/daemon/admin"
)

const (
	followMin = time.Second
	followMax = 30 * time.Second
)

// errEnough ends the following of events: --limit is reached.
var errEnough = errors.New("enough")

func eventsCommand() *cli.Command {
	return &cli.Command{
		Name:  "events",
		Usage: "say what happens: devices that come and go, what becomes of signals",
		Description: "A line an event, until it is interrupted. When the server goes away it waits for it and continues where it\n" +
			"was; events.missed says that it could not.  Types: device.connected, device.disconnected, device.outer (what\n" +
			"the device meets on the way has changed), device.denied, device.allowed, signal.acked, signal.refused,\n" +
			"signal.expired, signal.dropped, signal.canceled.",
		Flags: []cli.Flag{
			adminFlag(),
			&cli.StringSliceFlag{Name: "device", Usage: "only of the device `ID`; a * stands for any text; can be repeated"},
			&cli.StringSliceFlag{Name: "type", Usage: "only of this `TYPE`, such as device.*; can be repeated"},
			&cli.StringFlag{Name: "after", Usage: "those after the event `ID` first, or \"oldest\": all that the server still has"},
			&cli.IntFlag{Name: "limit", Usage: "end after so many"},
			&cli.BoolFlag{Name: "json", Usage: "a JSON object a line"},
		},
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, 0, 0); err != nil {
				return err
			}
			f := &admin.EventFilter{Devices: c.StringSlice("device"), Types: c.StringSlice("type"), After: c.String("after")}
			left := c.Int("limit")
			return follow(c, f, func(e admin.Event) error {
				if err := printEvent(c, &e); err != nil {
					return err
				}
				if left--; left == 0 {
					return errEnough
				}
				return nil
			})
		},
	}
}

// follow calls fn for each event, also when the server goes away and comes back,
// until fn returns an error or the verb is interrupted.
func follow(c *cli.Context, f *admin.EventFilter, fn func(admin.Event) error) error {
	client, pause, reached := adminClient(c), followMin, false
	opened := f.Opened
	f.Opened = func() error {
		reached, pause = true, followMin
		if opened != nil {
			return opened()
		}
		return nil
	}
	for {
		err := client.Events(c.Context, f, fn)
		var outcome *admin.OutcomeError
		var unreachable *admin.UnreachableError
		var ended *admin.EndedError
		var broken *admin.BrokenError
		switch {
		case errors.Is(err, errEnough):
			return nil
		case c.Err() != nil:
			return nil // it goes on until it is interrupted
		case errors.As(err, &outcome) && outcome.State != admin.Unavailable, !reached:
			return explainAdmin(c, err, "", "")
		case !errors.As(err, &outcome) && !errors.As(err, &unreachable) && !errors.As(err, &ended) && !errors.As(err, &broken):
			return err
		}
		wait := pause/2 + rand.N(pause/2)
		if pause == followMin {
			_, _ = fmt.Fprintln(c.App.ErrWriter, "the server is away; waiting for it")
		}
		pause = min(2*pause, followMax)
		if !sleep(c.Context, wait) {
			return nil
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func printEvent(c *cli.Context, e *admin.Event) error {
	if c.Bool("json") {
		return json.NewEncoder(c.App.Writer).Encode(e)
	}
	words := []string{stamp(e.Time), e.Type}
	add := func(name, value string) {
		if value != "" {
			words = append(words, name+cell(value))
		}
	}
	add("", e.Device)
	add("signal=", e.Signal)
	add("session=", e.Session)
	add("carrier=", e.Carrier)
	add("address=", e.Address)
	if e.Was != "" {
		add("outer=", e.Was+" -> "+e.Outer)
	} else {
		add("outer=", e.Outer)
	}
	add("by=", e.By)
	add("code=", e.Code)
	line := strings.Join(words, " ")
	if e.Text != "" {
		line += ": " + cell(e.Text)
	}
	_, err := fmt.Fprintln(c.App.Writer, line)
	return err
}

// watchDevices lists the devices, and then says how that changes.
func watchDevices(c *cli.Context) error {
	listed := false
	list := func() error {
		all, err := adminClient(c).Devices(c.Context)
		if err != nil || c.Bool("json") {
			if err != nil {
				return explainAdmin(c, err, "", "")
			}
			return json.NewEncoder(c.App.Writer).Encode(all)
		}
		return devicesTable(c, all)
	}
	f := &admin.EventFilter{Types: []string{"device.*"}, Opened: func() error {
		if listed {
			return nil
		}
		listed = true
		return list()
	}}
	return follow(c, f, func(e admin.Event) error {
		if e.Type == admin.TypeMissed { // as at the beginning
			return list()
		}
		return printEvent(c, &e)
	})
}
