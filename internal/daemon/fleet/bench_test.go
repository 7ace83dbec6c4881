package fleet

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

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
		s.cfg.Groups = map[string][]string{"all-of-them": ids}
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
		runtime.GC()
		began = time.Now()
		s.start()
		b.ReportMetric(time.Since(began).Seconds(), "s-reopen")
		began = time.Now()
		if shown := must[*admin.Signal](b)(s.f.Show(b.Context(), id)); shown.Counts[admin.Queued] != n {
			b.Fatalf("%+v", shown.Counts)
		}
		b.ReportMetric(time.Since(began).Seconds(), "s-show")
		runtime.GC()
		b.ReportMetric(float64(resident(b)-empty)/(1<<20), "MiB-reopened")
		s.stop()
	}
}

// resident is what the process has of the memory now.
func resident(b *testing.B) int64 {
	b.Helper()
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
