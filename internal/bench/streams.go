//go:build unix

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// streams measures bulk, many streams, and latency, idle and under load.
func streams(o *options) error {
	k, err := newKeys()
	if err != nil {
		return err
	}
	r := newReport(o)
	for round := range o.rounds {
		for _, c := range streamCases(o) {
			for _, s := range stacks() {
				if !o.wants(s.name) || !strings.Contains(c.name, o.cases) || c.signals && s.name != ours && s.name != naive {
					continue
				}
				if err := s.connected(k, nil, func(l *link) error { return c.run(l, r.row(c.name), s.name) }); err != nil {
					return fmt.Errorf("%s: %w", c.name, err)
				}
			}
		}
		logf("round %d of %d", round+1, o.rounds)
	}
	return r.writeStreams()
}

type streamCase struct {
	name    string
	signals bool // needs one session for two things
	run     func(l *link, row *row, stack string) error
}

func streamCases(o *options) (cases []streamCase) {
	for _, size := range []int{64 << 10, 1 << 10} {
		for _, dir := range []string{"up", "down"} {
			total := o.mib << 20
			if size < 4<<10 {
				total /= 4
			}
			cases = append(cases, streamCase{
				name: fmt.Sprintf("bulk %s, %s writes", dir, bytesName(size)),
				run: func(l *link, row *row, stack string) error {
					return bulk(l, row, stack, 1, dir == "up", size, total)
				},
			})
		}
	}
	for _, dir := range []string{"up", "down"} {
		cases = append(cases, streamCase{
			name: "16 streams " + dir,
			run: func(l *link, row *row, stack string) error {
				return bulk(l, row, stack, 16, dir == "up", 64<<10, o.mib<<20)
			},
		})
	}
	cases = append(cases,
		streamCase{name: "echo of 100 B, idle", run: func(l *link, row *row, stack string) error {
			return latency(l, row, stack, 2000, l.echo)
		}},
		streamCase{name: "acked signal, idle", signals: true, run: func(l *link, row *row, stack string) error {
			return latency(l, row, stack, 2000, l.signalOrEcho)
		}},
	)
	for _, dir := range []string{"up", "down"} {
		cases = append(cases, streamCase{name: "acked signal, bulk " + dir, signals: true, run: func(l *link, row *row, stack string) error {
			return underLoad(l, row, stack, dir == "up")
		}})
	}
	return cases
}

// bulk copies total bytes in all over n streams at once, and says how far apart
// the streams were when the first was done.
func bulk(l *link, row *row, stack string, n int, up bool, size, total int) error {
	pairs := make([]pair, n)
	for i := range pairs {
		p, err := l.open()
		if err != nil {
			return err
		}
		defer p.close()
		if up {
			pairs[i] = p
		} else {
			pairs[i] = pair{device: p.cloud, cloud: p.device}
		}
	}
	per := total / n
	got := make([]int64, n)
	var first sync.Once
	var atFirst []int64
	var mu sync.Mutex
	errs := make(chan error, 2*n)
	before, start := cpuSeconds(), time.Now()
	for i, p := range pairs {
		go func() {
			buf := make([]byte, size)
			for sent := 0; sent < per; sent += size {
				if _, err := p.device.Write(buf); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
		go func() {
			buf := make([]byte, 64<<10)
			for left := per; left > 0; {
				k, err := p.cloud.Read(buf[:min(len(buf), left)])
				left -= k
				mu.Lock()
				got[i] += int64(k)
				mu.Unlock()
				if err != nil {
					errs <- err
					return
				}
			}
			first.Do(func() {
				mu.Lock()
				atFirst = slices.Clone(got)
				mu.Unlock()
			})
			errs <- nil
		}()
	}
	for range 2 * n {
		if err := <-errs; err != nil {
			return err
		}
	}
	gib := float64(per*n) / (1 << 30)
	row.add(stack, "CPU-s/GiB", (cpuSeconds()-before)/gib)
	row.add(stack, "MiB/s", gib*1024/time.Since(start).Seconds())
	if n > 1 {
		row.add(stack, "slowest/fastest", float64(slices.Min(atFirst))/float64(slices.Max(atFirst)))
	}
	return nil
}

func (p pair) close() {
	_ = p.device.Close()
	_ = p.cloud.Close()
}

// echo prepares round trips of 100 bytes, from the cloud to the device and back.
func (l *link) echo() (trip func() error, done func(), err error) {
	p, err := l.open()
	if err != nil {
		return nil, nil, err
	}
	go func() { _, _ = io.Copy(p.device, p.device) }()
	buf := make([]byte, 100)
	return func() error { return echoOnce(p.cloud, buf) }, p.close, nil
}

func echoOnce(c net.Conn, buf []byte) error {
	if _, err := c.Write(buf); err != nil {
		return err
	}
	_, err := io.ReadFull(c, buf)
	return err
}

// signalOrEcho prepares acked signals, for which a stack without them has an
// echo on a stream that is open.
func (l *link) signalOrEcho() (trip func() error, done func(), err error) {
	if l.signal == nil {
		return l.echo()
	}
	data := make([]byte, 100)
	return func() error { return l.signal(context.Background(), data) }, func() {}, nil
}

func latency(l *link, row *row, stack string, n int, prepare func() (func() error, func(), error)) error {
	trip, done, err := prepare()
	if err != nil {
		return err
	}
	defer done()
	for range 20 {
		if err := trip(); err != nil {
			return err
		}
	}
	before := cpuSeconds()
	took, err := trips(n, trip)
	if err != nil {
		return err
	}
	row.add(stack, "CPU-us", (cpuSeconds()-before)/float64(n)*1e6)
	row.addTimes(stack, took)
	return nil
}

func trips(n int, trip func() error) ([]time.Duration, error) {
	took := make([]time.Duration, 0, n)
	for range n {
		start := time.Now()
		if err := trip(); err != nil {
			return nil, err
		}
		took = append(took, time.Since(start))
	}
	return took, nil
}

// underLoad measures signals while a copy saturates the same session.
func underLoad(l *link, row *row, stack string, up bool) error {
	p, err := l.open()
	if err != nil {
		return err
	}
	defer p.close()
	from, to := p.cloud, p.device
	if up {
		from, to = to, from
	}
	trip, done, err := l.signalOrEcho()
	if err != nil {
		return err
	}
	defer done()
	go func() {
		buf := make([]byte, 64<<10)
		for {
			if _, err := from.Write(buf); err != nil {
				return
			}
		}
	}()
	moved := &counter{}
	go func() { _, _ = io.CopyBuffer(moved, struct{ io.Reader }{to}, make([]byte, 64<<10)) }()
	if _, err := trips(50, trip); err != nil {
		return err
	}
	before, start := moved.n.Load(), time.Now()
	var took []time.Duration
	for time.Since(start) < 1500*time.Millisecond {
		t, err := trips(1, trip)
		if err != nil {
			return err
		}
		took = append(took, t...)
		time.Sleep(500 * time.Microsecond)
	}
	row.addTimes(stack, took)
	row.add(stack, "MiB/s beside", float64(moved.n.Load()-before)/(1<<20)/time.Since(start).Seconds())
	return nil
}
