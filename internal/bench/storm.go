//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
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
	_, _ = fmt.Fprintf(w, "%d devices start to dial in the same moment, over wss, with the client's own timeouts and pauses. Devices and server\n", o.devices)
	_, _ = fmt.Fprint(w, "share the cores. A wasted handshake is one that the server did for a device that was gone before Ready.\n\n")
	_, _ = fmt.Fprint(w, "| half are back | 99 % | all | turned away (503) | other failures | wasted handshakes | server's CPU per device, ms |\n|---:|---:|---:|---:|---:|---:|---:|\n")
	for range min(o.rounds, 3) {
		if err := stormOnce(o, k, w); err != nil {
			return err
		}
	}
	return w.Close()
}

func stormOnce(o *options, k *keys, w io.Writer) error {
	srv, err := startChild(o, k, ours, "wss")
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
	start := make(chan time.Time)
	all := make(chan struct{})
	for i := range o.devices {
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
					if back = append(back, time.Since(began)); len(back) == o.devices {
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
	for range o.devices {
		start <- now
	}
	select {
	case <-all:
	case <-time.After(10 * time.Minute):
		return fmt.Errorf("only %d of %d came back", len(back), o.devices)
	}
	after, err := srv.ask("stat")
	if err != nil {
		return err
	}
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(back)
	at := func(p int) time.Duration { return back[min(len(back)-1, len(back)*p/100)].Round(10 * time.Millisecond) }
	_, _ = fmt.Fprintf(w, "| %s | %s | %s | %d | %d | %d | %.2f |\n", at(50), at(99), at(100), turned.Load(), failed.Load(), after.Refused,
		(after.CPU-before.CPU)*1e3/float64(o.devices))
	return nil
}
