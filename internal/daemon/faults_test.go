package daemon

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/fault"
	"github.com/atls-ws/atls-ws/internal/pki"
)

const (
	faultyConns  = 8  // connections of a device that are treated badly; what comes after them is not
	faultSignals = 40 // to each device
	faultStall   = 4 * time.Second
	keepalive    = time.Second // so that a silent peer is dead after three
)

// TestFaultsLoseAndChangeNothing lets devices live through random faults. Each
// is handled every signal once and in order, no byte of a stream is wrong, and
// each recovers. ATLS_FAULT_SEEDS=N tries N seeds, ATLS_FAULT_SEED=S one again.
func TestFaultsLoseAndChangeNothing(t *testing.T) {
	seeds := []uint64{rand.Uint64N(1 << 32), 1, 2, 3, 4, 5}
	if n, err := strconv.Atoi(os.Getenv("ATLS_FAULT_SEEDS")); err == nil {
		for len(seeds) < n {
			seeds = append(seeds, rand.Uint64N(1<<32))
		}
	}
	if seed, err := strconv.ParseUint(os.Getenv("ATLS_FAULT_SEED"), 10, 64); err == nil {
		seeds = []uint64{seed}
	}
	s := startWith(t, func(cfg *config.Server, _ string) { cfg.Limits.Keepalive = keepalive })
	var wg sync.WaitGroup
	for i, seed := range seeds {
		d := newFaulty(t, s, fmt.Sprintf("f-%d", i), seed)
		wg.Go(d.live)
	}
	wg.Wait()
}

// faulty is a device behind a fault proxy.
type faulty struct {
	t     *testing.T
	s     *site
	id    string
	seed  uint64
	plans []string
	proxy *fault.Proxy
	c     *client.Client
	conf  *client.Config

	mu      sync.Mutex
	handled []string
}

func newFaulty(t *testing.T, s *site, id string, seed uint64) *faulty {
	d := &faulty{t: t, s: s, id: id, seed: seed}
	rng := rand.New(rand.NewPCG(seed, 0))
	var err error
	d.proxy, err = fault.Listen(strings.TrimPrefix(s.url, "http://"), func(n int) fault.Plan {
		if n >= faultyConns {
			return fault.Plan{}
		}
		plan := fault.Random(rng, 400<<10, faultStall)
		d.mu.Lock()
		d.plans = append(d.plans, plan.String())
		d.mu.Unlock()
		return plan
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.proxy.Close)
	pair := must[*pki.Pair](t)(s.ca.Device(id, 0))
	carriers := []client.Carrier{client.CarrierAuto, client.CarrierWebSocket, client.CarrierPOST}
	d.conf = &client.Config{
		URL: "http://" + d.proxy.Addr(), Mux: new(client.Mux), Carrier: carriers[seed%3],
		Proxy: func(*http.Request) (*url.URL, error) { return nil, nil },
		TLS:   &tls.Config{RootCAs: s.ca.Pool(), ServerName: pki.ServerName, Certificates: []tls.Certificate{must[tls.Certificate](t)(pair.TLS())}},
		// An update ends the pause: years of back-off are not what is tested here.
		OnDisconnect: func(error, time.Duration) { _ = d.c.Update(d.conf.TLS, nil) },
	}
	d.conf.Mux.OnSignal(client.AnySignal, func(_ context.Context, sig client.Signal) (string, error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.handled = append(d.handled, sig.Name)
		return "did " + sig.Name, nil
	})
	d.c = must[*client.Client](t)(client.New(d.conf))
	return d
}

// live runs the device, and everything with it, to the end.
func (d *faulty) live() {
	defer func() {
		if d.t.Failed() {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.t.Logf("again with ATLS_FAULT_SEED=%d (carrier %s); what happened to its connections:\n%s", d.seed, d.conf.Carrier, strings.Join(d.plans, "\n"))
		}
	}()
	ctx, cancel := context.WithTimeout(d.t.Context(), 3*time.Minute)
	defer cancel()
	echo, err := d.c.Listen("echo")
	if err != nil {
		d.t.Error(err)
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { serveEcho(echo) })
	defer func() { _ = echo.Close() }()
	running, stop := context.WithCancel(ctx)
	wg.Go(func() { _ = d.c.Run(running) })
	defer stop()

	streaming, enough := context.WithCancel(ctx)
	var streams sync.WaitGroup
	streams.Go(func() { d.stream(streaming) })
	d.push(ctx)
	// What was on the way when a session died comes with the next one.
	names := func() []string { d.mu.Lock(); defer d.mu.Unlock(); return slices.Clone(d.handled) }
	for len(names()) < faultSignals && ctx.Err() == nil {
		time.Sleep(20 * time.Millisecond)
	}
	enough()
	streams.Wait()
	if o, err := d.s.admin.Push(ctx, &admin.Push{Device: d.id, Name: "last", Timeout: time.Minute}); err != nil || o.State != admin.Acked {
		d.t.Errorf("%s does not recover: %+v, %v", d.id, o, err)
	}
	var want []string
	for i := range faultSignals {
		want = append(want, fmt.Sprintf("s-%d", i))
	}
	if got := names(); !slices.Equal(got, append(want, "last")) {
		d.t.Errorf("%s handled %d signals: %q", d.id, len(got), got)
	}
	for { // what was answered leaves the queue a moment later
		waiting, err := d.s.admin.Queue(ctx, d.id)
		if err != nil {
			d.t.Errorf("%s: signals still wait: %+v, %v", d.id, waiting, err)
		}
		if err != nil || len(waiting) == 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// push sends signals one after the other, waiting for some.
func (d *faulty) push(ctx context.Context) {
	rng := rand.New(rand.NewPCG(d.seed, 1))
	for i := range faultSignals {
		p := &admin.Push{Device: d.id, Name: fmt.Sprintf("s-%d", i), Timeout: time.Second, NoWait: rng.IntN(2) == 0, Data: make([]byte, rng.IntN(8<<10))}
		if o, err := d.s.admin.Push(ctx, p); err != nil || o.State == admin.Refused || o.State == admin.Failed {
			d.t.Errorf("%s: push %d: %+v, %v", d.id, i, o, err)
			return
		}
		time.Sleep(time.Duration(rng.IntN(40)) * time.Millisecond)
	}
}

// stream sends random bytes to the device's echo, again and again. A connection
// may break; what it gives is right.
func (d *faulty) stream(ctx context.Context) {
	rng := rand.New(rand.NewPCG(d.seed, 2))
	for ctx.Err() == nil {
		data := make([]byte, rng.IntN(200<<10))
		for i := range data {
			data[i] = byte(rng.Uint32())
		}
		conn, err := dialDevice(ctx, d.s, d.id, "echo")
		if err != nil {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
		var wg sync.WaitGroup
		wg.Go(func() {
			_, _ = conn.Write(data)
			_ = conn.(interface{ CloseWrite() error }).CloseWrite()
		})
		got, err := io.ReadAll(conn)
		_ = conn.Close()
		wg.Wait()
		if !bytes.HasPrefix(data, got) || err == nil && stop() && len(got) != len(data) {
			d.t.Errorf("%s: %d bytes came back of %d (%v), the same so far: %v", d.id, len(got), len(data), err, bytes.HasPrefix(data, got))
			return
		}
		stop()
	}
}

func dialDevice(ctx context.Context, s *site, device, service string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return s.admin.Dial(ctx, device, service)
}

func serveEcho(l net.Listener) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		wg.Go(func() {
			// What was not read to its end must not look as if it had been.
			if _, err := io.Copy(c, c); err != nil {
				if r, ok := c.(interface{ Reset() }); ok {
					r.Reset()
				}
			}
			_ = c.Close()
		})
	}
}
