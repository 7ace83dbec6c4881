//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/atls-ws/atls-ws/client"
)

// storm lets all devices of a fleet connect at once, and again after the server
// process was replaced, with the client's own timeouts and pauses.
func storm(o *options) error {
	k, err := newKeys()
	if err != nil {
		return err
	}
	w, err := o.create("storm.md")
	if err != nil {
		return err
	}
	o.head(w, "Devices that all come back at once")
	_, _ = fmt.Fprint(w, "Devices start to dial in the same moment, over wss, with the client's own timeouts and pauses. A wasted handshake is\n")
	_, _ = fmt.Fprint(w, "one that the server did for a device that was gone before Ready.\n\n")
	_, _ = fmt.Fprint(w, "A device needs about as much CPU as the server does for it. Where the server has half a core (GOMAXPROCS=1, and stopped\n")
	_, _ = fmt.Fprint(w, "for half of the time), the devices have the rest of the machine, as devices elsewhere would.\n\n")
	_, _ = fmt.Fprint(w, "| devices | server | like, to two cores | half are back | 99 % | all | turned away (503) | other failures | wasted handshakes | server's CPU per device, ms |\n|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, c := range []stormCase{
		{o.devices, 1, "shares all cores", "-"},
		{o.devices * 5 / 8, 2, "half a core", strconv.Itoa(o.devices * 5 / 2)},
		{o.devices * 5 / 4, 2, "half a core", strconv.Itoa(o.devices * 5)},
	} {
		for range min(o.rounds, 3) {
			if err := c.run(o, k, w); err != nil {
				return err
			}
		}
	}
	return w.Close()
}

// stormCase is a number of devices and a server that runs on one core for one of
// slow moments; 1: on all cores, all the time.
type stormCase struct {
	devices, slow int
	server, like  string
}

func (sc stormCase) run(o *options, k *keys, w io.Writer) error {
	var env []string
	if sc.slow > 1 {
		env = []string{"GOMAXPROCS=1"}
	}
	srv, err := startChild(o, k, ours, "wss", env...)
	if err != nil {
		return err
	}
	defer srv.stop()
	before, err := srv.ask("stat")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var mu sync.Mutex
	var back []time.Duration
	var turned, failed atomic.Int32
	if sc.slow > 1 {
		wg.Go(func() { slowDown(ctx, srv.cmd.Process, sc.slow) })
	}
	start := make(chan time.Time)
	all := make(chan struct{})
	for i := range sc.devices {
		d, err := newDevice(k, ours, srv.url, fmt.Sprintf("device-%d", i))
		if err != nil {
			return err
		}
		var once sync.Once
		var began time.Time
		c, err := client.New(&client.Config{
			URL: srv.url, TLS: d.tls, Proxy: noProxy, Carrier: client.CarrierWebSocket,
			Logger: slog.New(slog.DiscardHandler),
			OnConnect: func(*client.Session) {
				once.Do(func() {
					mu.Lock()
					defer mu.Unlock()
					if back = append(back, time.Since(began)); len(back) == sc.devices {
						close(all)
					}
				})
			},
			OnDisconnect: func(err error, _ time.Duration) {
				var refused *client.CarrierError
				if errors.As(err, &refused) && refused.StatusCode == 503 {
					turned.Add(1)
				} else if ctx.Err() == nil && failed.Add(1) == 1 {
					logf("the first failure: %v", err)
				}
			},
		})
		if err != nil {
			return err
		}
		wg.Go(func() {
			began = <-start
			_ = c.Run(ctx)
		})
	}
	now := time.Now()
	for range sc.devices {
		start <- now
	}
	select {
	case <-all:
	case <-time.After(10 * time.Minute):
		return fmt.Errorf("only %d of %d came back", len(back), sc.devices)
	}
	after, err := srv.ask("stat")
	if err != nil {
		return err
	}
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(back)
	at := func(p int) time.Duration { return back[min(len(back)-1, len(back)*p/100)].Round(10 * time.Millisecond) }
	_, _ = fmt.Fprintf(w, "| %d | %s | %s | %s | %s | %s | %d | %d | %d | %.2f |\n", sc.devices, sc.server, sc.like, at(50), at(99), at(100), turned.Load(), failed.Load(), after.Refused,
		(after.CPU-before.CPU)*1e3/float64(sc.devices))
	return nil
}

// slowDown lets a process run for one of n moments, until ctx ends: so a machine
// that has to be the devices too can be a smaller server and have cores for them.
func slowDown(ctx context.Context, p *os.Process, n int) {
	const moment = 5 * time.Millisecond
	defer func() { _ = p.Signal(syscall.SIGCONT) }()
	for ctx.Err() == nil {
		_ = p.Signal(syscall.SIGSTOP)
		time.Sleep(time.Duration(n-1) * moment)
		_ = p.Signal(syscall.SIGCONT)
		time.Sleep(moment)
	}
}
