// Package fleet keeps the signals for a fleet of devices until each has been
// answered, in NATS JetStream: embedded in the process, or a server or cluster
// elsewhere. It is the daemon's alone; package server knows nothing of it.
//
// A signal is stored, and synced to the disk, before its sender hears "queued".
// It leaves its device's queue when the device has answered, when it expires,
// or when it is canceled or dropped for a newer one; what became of it is
// stored before it leaves. An offline device costs what its queue takes on the
// disk and an entry in JetStream's index: no goroutine, no timer, no consumer.
package fleet

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/server"
)

// Defaults of Config.
const (
	DefaultPerDevice  = 1000
	DefaultMaxBytes   = 4 << 30
	DefaultMaxAge     = 7 * 24 * time.Hour
	DefaultOutcomes   = 72 * time.Hour
	DefaultCloudAge   = 72 * time.Hour
	DefaultCloudBytes = 1 << 30
)

const (
	fetchers  = 64               // reads of queues under way at once: a storm of connecting devices waits its turn
	fanOuts   = 8                // sends to more than one device under way at once
	bellCheck = 10 * time.Second // how soon a missed bell is noticed
	closeTime = 5 * time.Second  // to store what is still to be stored
)

// Config says where the signals are kept and how many. Zero values have the
// defaults above.
type Config struct {
	// Dir is the data directory, used when NATS.URL is empty: it is made, and
	// locked against a second process.
	Dir  string
	NATS NATS
	// PerDevice is how many signals can wait for one device; DropOldest lets the
	// next one push out the first, instead of being refused.
	PerDevice  int
	DropOldest bool
	MaxBytes   int64         // of all queues together; what is over is refused
	MaxAge     time.Duration // for which a signal without a TTL waits; no TTL is longer
	Outcomes   time.Duration // for which it can be asked what became of a signal
	// Groups gives the groups of devices that are configured just now; nil: none are.
	Groups func() config.Groups
	// Hooks get the signals of devices; see Hook.
	Hooks      []Hook
	CloudAge   time.Duration // for which the signals of devices are kept
	CloudBytes int64
	// Node makes this one of several that share NATS; nil: it is alone.
	Node   *Node
	Logger *slog.Logger // required
	// Observe is told of each signal that is queued, and of what became of it, with
	// the time since it was queued; 0 when that is not known. nil: nobody.
	Observe func(state string, after time.Duration)
}

// NATS names a NATS server or cluster; without a URL one is embedded.
type NATS struct {
	URL         string // nats:// or tls://, several with commas
	Credentials string // file
	CA          string // PEM file, for the server's certificate
	Replicas    int    // of each stream; 1, of an embedded cluster 3
	Cluster     NATSCluster
}

func (c Config) complete() Config {
	c.PerDevice = orDefault(c.PerDevice, DefaultPerDevice)
	c.MaxBytes = orDefault(c.MaxBytes, DefaultMaxBytes)
	c.MaxAge = orDefault(c.MaxAge, DefaultMaxAge)
	c.Outcomes = orDefault(c.Outcomes, DefaultOutcomes)
	c.CloudAge = orDefault(c.CloudAge, DefaultCloudAge)
	c.CloudBytes = orDefault(c.CloudBytes, DefaultCloudBytes)
	replicas := 1
	if c.NATS.Cluster.Listen != "" {
		replicas = 3
	}
	c.NATS.Replicas = orDefault(c.NATS.Replicas, replicas)
	if c.Groups == nil {
		c.Groups = func() config.Groups { return nil }
	}
	if c.Observe == nil {
		c.Observe = func(string, time.Duration) {}
	}
	return c
}

func orDefault[T int | int64 | time.Duration](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}

// Fleet is the queues of all devices and the delivery to those that are
// connected. Its methods may be called from any goroutine. The caller of Open
// closes it.
type Fleet struct {
	cfg   Config
	log   *slog.Logger
	store *store
	queue string // the incarnation of the queues
	node  string // this process, among those at one NATS

	delivering sync.WaitGroup

	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	fetching chan struct{}
	fanning  chan struct{}
	hooking  chan struct{}
	hooks    *http.Client
	lastBell atomic.Uint64
	ringAll  chan struct{}
	known    *knownDevices
	denied   *denials
	nodes    *nodes // nil: there is one

	mu       sync.Mutex
	closed   bool
	registry *server.Registry
	links    map[string]*link // connected devices, by token
}

// Open starts or reaches NATS and makes what is missing in it. ctx bounds the
// opening. What is in its way and can be removed is a *StartError.
func Open(ctx context.Context, c Config) (*Fleet, error) {
	c = c.complete()
	s, err := openStore(&c)
	if err != nil {
		return nil, err
	}
	f := &Fleet{
		cfg: c, log: c.Logger, store: s, node: rand.Text(),
		fetching: make(chan struct{}, fetchers), fanning: make(chan struct{}, fanOuts), hooking: make(chan struct{}, hooksAtOnce),
		hooks:   newHookClient(),
		ringAll: make(chan struct{}, 1), links: map[string]*link{},
	}
	f.nodes = newNodes(f, c.Node)
	f.ctx, f.cancel = context.WithCancel(context.Background())
	if f.queue, err = s.makeStreams(ctx, &c); err == nil {
		err = f.listenForBells(ctx)
	}
	if err == nil {
		f.denied, err = openDenials(ctx, f)
	}
	if err == nil && c.Node != nil {
		err = f.nodes.join(ctx)
	}
	if err != nil {
		f.cancel()
		f.wg.Wait()
		s.close()
		return nil, err
	}
	f.known = newKnownDevices(f)
	f.wg.Go(f.known.write)
	return f, nil
}

// Queue names the incarnation of the queues, for server.Config.Queue.
func (f *Fleet) Queue() string { return f.queue }

// Serve says whose sessions the fleet delivers to. Call it once, before the
// server takes devices, and Connected and Disconnected from its hooks.
func (f *Fleet) Serve(r *server.Registry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.registry = r
}

// Close ends delivery and stores what is still to be stored, in five seconds.
// The sessions have ended before.
func (f *Fleet) Close() error {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return nil
	}
	f.closed = true
	f.mu.Unlock()
	delivered := make(chan struct{})
	go func() { // ends with what it waits for, at the latest after cancel
		defer close(delivered)
		f.delivering.Wait()
	}()
	timer := time.NewTimer(closeTime)
	select {
	case <-delivered:
	case <-timer.C:
	}
	timer.Stop()
	f.cancel()
	<-delivered
	f.wg.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	f.known.flush(ctx)
	if f.nodes != nil {
		f.nodes.leave(ctx)
	}
	if f.store.dir == "" || f.store.clustered {
		// nothing is noted
	} else if last, err := f.store.lastSeq(ctx); err == nil {
		_ = f.store.noteHighWater(f.queue, last) // a former note does as well
	}
	f.hooks.CloseIdleConnections()
	f.store.close()
	return nil
}

// StartError is a reason for which the fleet cannot start, that the operator
// can remove.
type StartError struct {
	Err  error
	next string
}

// Error gives the reason.
func (e *StartError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *StartError) Unwrap() error { return e.Err }

// Next says what to do about it.
func (e *StartError) Next() string { return e.next }

// listenForBells makes every stored signal ring at the device's link. A bell
// can be lost: the gap in the sequences tells.
func (f *Fleet) listenForBells(ctx context.Context) error {
	sub, err := f.store.nc.Subscribe(bellSubject+".*", func(m *nats.Msg) {
		seq := sequence(m)
		if last := f.lastBell.Swap(seq); seq != last+1 {
			f.missed()
		}
		f.mu.Lock()
		l := f.links[m.Subject[len(bellSubject)+1:]]
		f.mu.Unlock()
		if l != nil {
			l.ring(seq)
		}
	})
	if err != nil {
		return fmt.Errorf("fleet: %w", err)
	}
	var last uint64
	err = f.store.settled(ctx, func(ctx context.Context) (err error) {
		last, err = f.store.lastSeq(ctx)
		return err
	})
	if err != nil {
		return err
	}
	if f.queue, err = f.store.checkHighWater(ctx, f.queue, last); err != nil {
		return err
	}
	f.lastBell.CompareAndSwap(0, last)
	f.store.nc.SetReconnectHandler(func(*nats.Conn) {
		f.log.Info("nats is back")
		f.missed()
		f.nodes.doubt()
	})
	f.wg.Go(func() {
		defer func() { _ = sub.Unsubscribe() }()
		f.watchBells(last)
	})
	return nil
}

func (f *Fleet) missed() {
	select {
	case f.ringAll <- struct{}{}:
	default:
	}
}

// watchBells rings at every link when a bell was missed.
func (f *Fleet) watchBells(before uint64) {
	tick := time.NewTicker(bellCheck)
	defer tick.Stop()
	for {
		select {
		case <-f.ctx.Done():
			return
		case <-tick.C:
			// What was stored before the last look has rung by now, or its bell is lost.
			if rung := f.lastBell.Load(); rung < before {
				f.lastBell.CompareAndSwap(rung, before)
				f.missed()
			}
			last, err := f.store.lastSeq(f.ctx)
			if err != nil || last == before {
				continue
			}
			before = last
			if err := f.store.noteHighWater(f.queue, last); err != nil {
				f.log.Warn("the data directory cannot be written", "err", err)
			}
			continue
		case <-f.ringAll:
		}
		f.mu.Lock()
		all := make([]*link, 0, len(f.links))
		for _, l := range f.links {
			all = append(all, l)
		}
		f.mu.Unlock()
		for _, l := range all {
			l.ring(f.lastBell.Load())
		}
	}
}
