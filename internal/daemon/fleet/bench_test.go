package fleet

import (
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
)

// BenchmarkOffline queues a signal for each of ATLS_BENCH_DEVICES devices that
// are offline (10,000), restarts, and says what that takes: docs/OPERATIONS.md
// has the figures.
func BenchmarkOffline(b *testing.B) {
	n := 10_000
	if text := os.Getenv("ATLS_BENCH_DEVICES"); text != "" {
		n = must[int](b)(strconv.Atoi(text))
	}
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("device-%06d", i)
	}
	data := []byte(strings.Repeat("x", 100))
	for b.Loop() {
		s := newSite(b, false)
		s.cfg.Groups = func() config.Groups { return config.Groups{"all-of-them": {Devices: ids}} }
		s.start()
		goroutines := runtime.NumGoroutine()
		empty := resident(b)
		began, queued := time.Now(), 0
		id := must[string](b)(s.f.Send(b.Context(), &Request{Target: Target{Group: "all-of-them"}, Name: "do", Data: data}, func(o admin.Outcome) {
			if o.State == admin.Queued {
				queued++
			}
		}))
		took := time.Since(began)
		if queued != n || runtime.NumGoroutine() > goroutines+8 {
			b.Fatalf("%d queued, %d goroutines before and %d after", queued, goroutines, runtime.NumGoroutine())
		}
		b.ReportMetric(float64(n)/took.Seconds(), "queued/s")
		b.ReportMetric(float64(resident(b)-empty)/(1<<20), "MiB-more")
		b.ReportMetric(float64(diskUse(b, s.cfg.Dir))/(1<<20), "MiB-disk")
		s.stop()
		began = time.Now()
		s.start()
		b.ReportMetric(time.Since(began).Seconds(), "s-reopen")
		b.ReportMetric(float64(resident(b)-empty)/(1<<20), "MiB-reopened")
		began = time.Now()
		if shown := must[*admin.Signal](b)(s.f.Show(b.Context(), id)); shown.Counts[admin.Queued] != n {
			b.Fatalf("%+v", shown.Counts)
		}
		b.ReportMetric(time.Since(began).Seconds(), "s-show")
		s.stop()
	}
}

// resident is what the process has of the memory now.
func resident(b *testing.B) int64 {
	b.Helper()
	debug.FreeOSMemory()
	data := must[[]byte](b)(os.ReadFile("/proc/self/statm"))
	pages := must[int64](b)(strconv.ParseInt(strings.Fields(string(data))[1], 10, 64))
	return pages * int64(os.Getpagesize())
}

func diskUse(b *testing.B, dir string) (n int64) {
	b.Helper()
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			if info, err := e.Info(); err == nil {
				n += info.Size()
			}
		}
		return nil
	})
	return n
}

// BenchmarkPushAndAck is a signal to a connected device, until its outcome is stored.
func BenchmarkPushAndAck(b *testing.B) {
	s := newSite(b, false).start()
	devices := make([]*device, 50)
	for i := range devices {
		devices[i] = s.device(fmt.Sprint("d", i))
		s.connect(devices[i])
	}
	b.ResetTimer()
	var next atomic.Int64
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			id := admin.NewID()
			done := make(chan struct{}, 1)
			stop := must[func()](b)(s.f.Watch(hex.EncodeToString(id[:]), func(admin.Outcome) { done <- struct{}{} }))
			d := devices[next.Add(1)%50]
			if _, err := s.f.Send(b.Context(), &Request{Target: Target{Device: d.id}, ID: &id, Fresh: true, Name: "do", Data: []byte("0123456789")}, func(admin.Outcome) {}); err != nil {
				b.Error(err)
			}
			<-done
			stop()
		}
	})
}
