//go:build unix

package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

func logf(format string, v ...any) { fmt.Fprintf(os.Stderr, format+"\n", v...) }

func bytesName(n int) string {
	if n >= 1<<20 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}

type counter struct{ n atomic.Int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

// report collects figures: rows are cases, and each has a cell of values, one a
// round, for every stack and unit.
type report struct {
	o    *options
	rows []*row
}

type row struct {
	name  string
	units []string
	cells map[[2]string][]float64 // by stack and unit
}

func newReport(o *options) *report { return &report{o: o} }

func (r *report) row(name string) *row {
	for _, x := range r.rows {
		if x.name == name {
			return x
		}
	}
	x := &row{name: name, cells: map[[2]string][]float64{}}
	r.rows = append(r.rows, x)
	return x
}

func (x *row) add(stack, unit string, v float64) {
	if !slices.Contains(x.units, unit) {
		x.units = append(x.units, unit)
	}
	x.cells[[2]string{stack, unit}] = append(x.cells[[2]string{stack, unit}], v)
}

func (x *row) addTimes(stack string, took []time.Duration) {
	slices.Sort(took)
	us := func(p int) float64 { return float64(took[min(len(took)*p/100, len(took)-1)].Nanoseconds()) / 1e3 }
	x.add(stack, "p50 us", us(50))
	x.add(stack, "p99 us", us(99))
}

func (x *row) median(stack, unit string) (float64, bool) {
	v := slices.Clone(x.cells[[2]string{stack, unit}])
	if len(v) == 0 {
		return 0, false
	}
	slices.Sort(v)
	return v[len(v)/2], true
}

// ratio is the median over the rounds of ours to theirs: the two of a round
// were measured within seconds of each other.
func (x *row) ratio(of, to, unit string) (float64, bool) {
	a, b := x.cells[[2]string{of, unit}], x.cells[[2]string{to, unit}]
	n := min(len(a), len(b))
	if n == 0 {
		return 0, false
	}
	v := make([]float64, n)
	for i := range v {
		if b[i] == 0 {
			return 0, false
		}
		v[i] = a[i] / b[i]
	}
	slices.Sort(v)
	return v[n/2], true
}

func number(v float64, ok bool) string {
	switch {
	case !ok:
		return ""
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// create opens a file of the report, or standard output.
func (o *options) create(name string) (io.WriteCloser, error) {
	if o.out == "" {
		if strings.HasSuffix(name, ".svg") {
			return nopCloser{io.Discard}, nil
		}
		return nopCloser{os.Stdout}, nil
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return nil, err
	}
	return os.Create(filepath.Join(o.out, name))
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// head begins a report.
func (o *options) head(w io.Writer, title string) {
	_, _ = fmt.Fprintf(w, "# %s\n\nMade by `%s`, %s, %d cores, %s. The machine has other work too: only\nfigures of the same run can be compared.\n\n",
		title, o.command, runtime.Version(), runtime.NumCPU(), runtime.GOARCH)
}

func (r *report) writeStreams() error {
	w, err := r.o.create("streams.md")
	if err != nil {
		return err
	}
	r.o.head(w, "CPU, throughput and latency")
	_, _ = fmt.Fprintf(w, "Both ends in one process over loopback; medians of %d alternating rounds; CPU is that of both ends.\n\n", r.o.rounds)
	names := []string{rawTCP, double, naive, ours}
	_, _ = fmt.Fprintf(w, "| case | unit | %s | %s to %s | to %s |\n|---|---|%s---|---|\n", strings.Join(names, " | "), ours, double, naive, strings.Repeat("---:|", len(names)))
	for _, x := range r.rows {
		for _, unit := range x.units {
			_, _ = fmt.Fprintf(w, "| %s | %s |", x.name, unit)
			for _, n := range names {
				_, _ = fmt.Fprintf(w, " %s |", number(x.median(n, unit)))
			}
			for _, n := range []string{double, naive} {
				v, ok := x.ratio(ours, n, unit)
				if ok {
					_, _ = fmt.Fprintf(w, " %.2fx |", v)
				} else {
					_, _ = fmt.Fprint(w, " |")
				}
			}
			_, _ = fmt.Fprintln(w)
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	var bars []bar
	for _, x := range r.rows {
		for _, n := range []string{double, naive, ours} {
			if v, ok := x.median(n, "CPU-s/GiB"); ok {
				bars = append(bars, bar{group: x.name, name: n, value: v})
			}
		}
	}
	return r.o.picture("streams.svg", "CPU-seconds per GiB, both ends", bars)
}
