// Package sim is many devices in one process, each with a real client and a
// session of its own: for load, for sizing a server, and for tests.
package sim

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/pki"
)

// Options are what the devices of a Fleet have in common.
type Options struct {
	URL    string  // of the server; required
	CA     *pki.CA // that the server trusts: it issues the devices' certificates; required
	Prefix string  // of the devices' ids; sim-
	Count  int     // of devices
	// Carrier is the devices'; WebSocket alone goes through what spreads connections
	// without looking into them.
	Carrier client.Carrier
	// Delay is how long each signal is handled.
	Delay time.Duration
	// Handle, if set, answers the signals instead, after Delay.
	Handle func(device string, s client.Signal) (reply string, err error)
	// Logger is that of the clients; nil is silence.
	Logger *slog.Logger
}

// Fleet is the devices and what they have seen.
type Fleet struct {
	o       Options
	devices []*device

	mu       sync.Mutex
	ready    []time.Duration // from a device's start to its first session
	sessions int
	up       map[string]bool
	signals  int
	first    time.Time   // session
	last     time.Time   // first session of a device
	again    []time.Time // later sessions
}

type device struct {
	id     string
	client *client.Client
	begun  time.Time
	ready  bool
}

// New makes the devices and their certificates. It connects nothing.
func New(o Options) (*Fleet, error) {
	if o.Prefix == "" {
		o.Prefix = "sim-"
	}
	f := &Fleet{o: o, up: map[string]bool{}}
	for i := range o.Count {
		d := &device{id: fmt.Sprintf("%s%d", o.Prefix, i)}
		pair, err := o.CA.Device(d.id, 0)
		if err != nil {
			return nil, err
		}
		cert, err := pair.TLS()
		if err != nil {
			return nil, err
		}
		c := &client.Config{
			URL: o.URL, Mux: new(client.Mux), Software: "atls-ws simulator", Carrier: o.Carrier, Logger: o.Logger, Stationary: true,
			TLS:          &tls.Config{RootCAs: o.CA.Pool(), ServerName: pki.ServerName, Certificates: []tls.Certificate{cert}},
			Proxy:        func(*http.Request) (*url.URL, error) { return nil, nil },
			OnConnect:    func(*client.Session) { f.connected(d) },
			OnDisconnect: func(error, time.Duration) { f.disconnected(d) },
		}
		c.Mux.OnSignal(client.AnySignal, func(ctx context.Context, s client.Signal) (string, error) { return f.handle(ctx, d.id, s) })
		if d.client, err = client.New(c); err != nil {
			return nil, err
		}
		f.devices = append(f.devices, d)
	}
	return f, nil
}

// ID is the id of device i.
func (f *Fleet) ID(i int) string { return f.devices[i].id }

// Run runs the devices from one to before another, beginning perSecond of them a
// second (0: all at once), until ctx ends. Nothing of them still runs then.
func (f *Fleet) Run(ctx context.Context, from, to, perSecond int) {
	var wg sync.WaitGroup
	defer wg.Wait()
	var tick <-chan time.Time
	if perSecond > 0 {
		t := time.NewTicker(time.Second / time.Duration(perSecond))
		defer t.Stop()
		tick = t.C
	}
	for _, d := range f.devices[from:to] {
		if tick != nil {
			select {
			case <-tick:
			case <-ctx.Done():
				return
			}
		}
		f.mu.Lock()
		d.begun = time.Now()
		f.mu.Unlock()
		wg.Go(func() {
			_ = d.client.Run(ctx)
			f.disconnected(d)
		})
	}
}

func (f *Fleet) connected(d *device) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	f.sessions++
	f.up[d.id] = true
	if f.first.IsZero() {
		f.first = now
	}
	if d.ready {
		f.again = append(f.again, now)
	}
	if !d.ready {
		d.ready, f.last = true, now
		f.ready = append(f.ready, now.Sub(d.begun))
	}
}

func (f *Fleet) disconnected(d *device) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.up, d.id)
}

func (f *Fleet) handle(ctx context.Context, id string, s client.Signal) (reply string, err error) {
	if f.o.Delay > 0 {
		timer := time.NewTimer(f.o.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	f.mu.Lock()
	f.signals++
	f.mu.Unlock()
	if f.o.Handle != nil {
		return f.o.Handle(id, s)
	}
	return "", nil
}

// Stats is what a Fleet has seen until now.
type Stats struct {
	Up       int `json:"up"`       // devices with a session now
	Sessions int `json:"sessions"` // made, reconnections too
	Signals  int `json:"signals"`  // handled
	// Busiest is the most reconnections within any second.
	Busiest int `json:"busiest_second"`
	// ConnectsPerSecond is that of the devices' first sessions, from the first to the last.
	ConnectsPerSecond float64     `json:"connects_per_second"`
	Connect           Percentiles `json:"connect"` // from a device's start to its first session
}

// CountAgain has Busiest count from now on.
func (f *Fleet) CountAgain() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.again = nil
}

// Stats counts.
func (f *Fleet) Stats() Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := Stats{Up: len(f.up), Sessions: f.sessions, Signals: f.signals, Connect: PercentilesOf(f.ready)}
	for i, j := 0, 0; j < len(f.again); j++ { // in order
		for f.again[j].Sub(f.again[i]) >= time.Second {
			i++
		}
		s.Busiest = max(s.Busiest, j-i+1)
	}
	if span := f.last.Sub(f.first).Seconds(); span > 0 {
		s.ConnectsPerSecond = float64(len(f.ready)-1) / span
	}
	return s
}

// Percentiles of durations; all zero for none.
type Percentiles struct {
	P50 time.Duration `json:"p50_ns"`
	P90 time.Duration `json:"p90_ns"`
	P99 time.Duration `json:"p99_ns"`
	Max time.Duration `json:"max_ns"`
}

// PercentilesOf sorts a copy of all.
func PercentilesOf(all []time.Duration) (p Percentiles) {
	if len(all) == 0 {
		return p
	}
	all = slices.Sorted(slices.Values(all))
	at := func(percent int) time.Duration { return all[(len(all)-1)*percent/100] }
	return Percentiles{at(50), at(90), at(99), at(100)}
}

// String is the percentiles in words.
func (p Percentiles) String() string {
	r := func(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }
	return fmt.Sprintf("p50 %s, p90 %s, p99 %s, max %s", r(p.P50), r(p.P90), r(p.P99), r(p.Max))
}
