package daemon

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/pki"
)

// TestSoak lives through churn, pushes and streams, and then compares what is
// left with what there was after a quarter of the time: goroutines, descriptors
// and heap of server and devices, in one process. make soak does so for SOAK
// (30m) with SOAK_SESSIONS (2000).
func TestSoak(t *testing.T) {
	long, sessions := 12*time.Second, 40
	if text := os.Getenv("SOAK"); text != "" {
		long, sessions = must[time.Duration](t)(time.ParseDuration(text)), 2000
	} else if testing.Short() {
		t.Skip("a soak is not short")
	}
	if n, err := strconv.Atoi(os.Getenv("SOAK_SESSIONS")); err == nil {
		sessions = n
	}
	s := startOptions(t, func(cfg *config.Server, _ string) {
		cfg.Limits.HalfOpen = 4096
		// What is kept of signals would grow for days.
		cfg.Queue.MaxAge, cfg.Queue.Outcomes, cfg.Cloud.MaxAge = 4*time.Second, 4*time.Second, 4*time.Second
	}, func(o *Options) { o.Logger = slog.New(slog.DiscardHandler) })
	f := newSoak(t, s, sessions)
	if long > time.Minute {
		f.rest = 90 * time.Second // then unused signal streams and yamuxes have gone
	}
	defer f.close()
	if testing.Verbose() {
		t.Logf("%d sessions, %s", sessions, long)
	}
	f.settle()
	f.work(long / 4)
	f.settle()
	before := measure()
	f.work(long * 3 / 4)
	f.settle()
	after := measure()
	t.Logf("churned %d, pushed %d, streamed %d (%d MiB)", f.churned.Load(), f.pushed.Load(), f.streamed.Load(), f.bytes.Load()>>20)
	t.Logf("after a quarter %s; at the end %s", before, after)
	if after.goroutines > before.goroutines+before.goroutines/50+30 {
		t.Errorf("goroutines grow: %d, then %d", before.goroutines, after.goroutines)
		buf := make([]byte, 1<<20)
		t.Logf("%.20000s", buf[:runtime.Stack(buf, true)])
	}
	if after.files > before.files+before.files/50+20 {
		t.Errorf("descriptors grow: %d, then %d", before.files, after.files)
	}
	if after.heap > before.heap+before.heap/4+(16<<20) {
		t.Errorf("the heap grows: %d KiB, then %d KiB", before.heap>>10, after.heap>>10)
	}
	if f.pushed.Load() == 0 || f.churned.Load() == 0 || f.streamed.Load() == 0 {
		t.Error("nothing was done")
	}
}

// usage is what a process holds.
type usage struct {
	goroutines, files int
	heap              uint64
}

func (u usage) String() string {
	return fmt.Sprintf("%d goroutines, %d descriptors, %d KiB of heap", u.goroutines, u.files, u.heap>>10)
}

func measure() usage {
	for range 3 {
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fds, _ := os.ReadDir("/proc/self/fd")
	return usage{runtime.NumGoroutine(), len(fds), m.HeapAlloc}
}

// soak is the devices and what was done with them.
type soak struct {
	t       *testing.T
	s       *site
	clients []*soaked
	rest    time.Duration // before what is left is measured
	wg      sync.WaitGroup

	churned, pushed, streamed, bytes atomic.Int64
}

type soaked struct {
	id   string
	c    *client.Client
	stop context.CancelFunc
	done chan struct{}
}

func newSoak(t *testing.T, s *site, sessions int) *soak {
	f := &soak{t: t, s: s, rest: 2 * time.Second}
	for i := range sessions {
		id := fmt.Sprintf("d-%d", i)
		pair := must[*pki.Pair](t)(s.ca.Device(id, 0))
		one := &soaked{id: id}
		carrier := client.CarrierWebSocket
		if i%10 == 9 {
			carrier = client.CarrierPOST
		}
		conf := &client.Config{
			URL: s.url, Mux: new(client.Mux), Carrier: carrier, Proxy: func(*http.Request) (*url.URL, error) { return nil, nil },
			TLS: &tls.Config{RootCAs: s.ca.Pool(), ServerName: pki.ServerName, Certificates: []tls.Certificate{must[tls.Certificate](t)(pair.TLS())}},
		}
		// The pauses of a real device would leave nothing to do; none at all would be a flood.
		conf.OnDisconnect = func(error, time.Duration) {
			time.AfterFunc(rand.N(5*time.Second), func() { _ = one.c.Update(conf.TLS, nil) })
		}
		conf.Mux.OnSignal(client.AnySignal, func(_ context.Context, sig client.Signal) (string, error) { return sig.Name, nil })
		one.c = must[*client.Client](t)(client.New(conf))
		echo, err := one.c.Listen("echo")
		if err != nil {
			t.Fatal(err)
		}
		f.wg.Go(func() { serveEcho(echo) })
		t.Cleanup(func() { _ = echo.Close() })
		f.clients = append(f.clients, one)
	}
	// All at once they would starve each other: one process has them all.
	for batch := range slices.Chunk(f.clients, 50) {
		for _, d := range batch {
			d.run()
		}
		f.connected(batch)
	}
	return f
}

func (d *soaked) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	d.stop, d.done = cancel, done
	go func() { _ = d.c.Run(ctx); close(done) }()
}

func (f *soak) close() {
	for _, d := range f.clients {
		d.stop()
	}
	for _, d := range f.clients {
		<-d.done
	}
}

// settle waits until every device is connected and what is idle has been closed.
func (f *soak) settle() {
	f.t.Helper()
	f.connected(f.clients)
	time.Sleep(f.rest)
}

// connected waits until devices are.
func (f *soak) connected(devices []*soaked) {
	f.t.Helper()
	for end := time.Now().Add(3 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		up := 0
		for _, d := range devices {
			if d.c.Session() != nil {
				up++
			}
		}
		if up == len(devices) {
			return
		}
		if time.Now().After(end) {
			f.t.Fatalf("%d of %d devices are connected", up, len(devices))
		}
	}
}

// work does everything at once for a while.
func (f *soak) work(long time.Duration) {
	ctx, cancel := context.WithTimeout(f.t.Context(), long)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	each := func(workers int, do func(rng *rand.Rand, own []*soaked)) {
		for w := range workers {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(w), 7))
				var own []*soaked
				for i := w; i < len(f.clients); i += workers {
					own = append(own, f.clients[i])
				}
				for ctx.Err() == nil {
					do(rng, own)
				}
			})
		}
	}
	each(1, func(rng *rand.Rand, all []*soaked) { // churn
		d := all[rng.IntN(len(all))]
		d.stop()
		<-d.done
		d.run()
		f.churned.Add(1)
		time.Sleep(20 * time.Millisecond)
	})
	each(4, func(rng *rand.Rand, all []*soaked) {
		d := all[rng.IntN(len(all))]
		if _, err := f.s.admin.Push(ctx, &admin.Push{Device: d.id, Name: "n", Data: make([]byte, rng.IntN(2000)), Timeout: 2 * time.Second}); err == nil {
			f.pushed.Add(1)
		}
	})
	each(2, func(rng *rand.Rand, all []*soaked) {
		data := make([]byte, rng.IntN(256<<10))
		for i := range data {
			data[i] = byte(i * 31)
		}
		conn, err := dialDevice(ctx, f.s, all[rng.IntN(len(all))].id, "echo")
		if err != nil {
			time.Sleep(10 * time.Millisecond)
			return
		}
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
		var sending sync.WaitGroup
		sending.Go(func() {
			_, _ = conn.Write(data)
			_ = conn.(interface{ CloseWrite() error }).CloseWrite()
		})
		got, _ := io.ReadAll(conn)
		_ = conn.Close()
		sending.Wait()
		if !bytes.HasPrefix(data, got) {
			f.t.Error("a byte is wrong")
		}
		f.streamed.Add(1)
		f.bytes.Add(int64(len(got)))
	})
}
