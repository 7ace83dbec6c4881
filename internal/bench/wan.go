//go:build unix

package main

import (
	"fmt"
	"net"
	"time"
)

const (
	wanRTT  = 60 * time.Millisecond
	resumed = "atls-ws resumed"
)

// wan measures one stream over a path with a round trip of 60 ms. Each stack
// has its defaults; what limits it is its window.
func wan(o *options) error {
	k, err := newKeys()
	if err != nil {
		return err
	}
	r := newReport(o)
	for range o.rounds {
		for _, dir := range []string{"up", "down"} {
			row := r.row("one stream " + dir)
			for _, s := range append(stacks(), stack{resumed, makeResumed}) {
				if !o.wants(s.name) {
					continue
				}
				total := 64 << 20
				if s.name == naive {
					total = 16 << 20
				}
				err := s.connected(k, farAway, func(l *link) error {
					return bulk(l, row, s.name, 1, dir == "up", 64<<10, total)
				})
				if err != nil {
					return err
				}
			}
		}
	}
	w, err := o.create("wan.md")
	if err != nil {
		return err
	}
	o.head(w, "One stream over a long path")
	_, _ = fmt.Fprintf(w, "A round trip of %s, made by a proxy on loopback that delays and does not limit; the connection is fresh. A device of\natls-ws that was there before resumes its inner TLS.\n\n", wanRTT)
	_, _ = fmt.Fprint(w, "| case | stack | Mbit/s |\n|---|---|---:|\n")
	for _, x := range r.rows {
		for _, n := range []string{rawTCP, double, naive, ours, resumed} {
			if v, ok := x.median(n, "MiB/s"); ok {
				_, _ = fmt.Fprintf(w, "| %s | %s | %.0f |\n", x.name, n, v*(1<<20)*8/1e6)
			}
		}
	}
	return w.Close()
}

// farAway returns the address of a proxy to addr that delays all bytes by half
// of wanRTT.
func farAway(addr string) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	go func() {
		defer func() { _ = l.Close() }()
		near, err := l.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", addr)
		if err != nil {
			_ = near.Close()
			return
		}
		go late(far, near)
		late(near, far)
	}()
	return l.Addr().String(), nil
}

// late copies with a delay.
func late(dst, src net.Conn) {
	type chunk struct {
		due time.Time
		p   []byte
	}
	chunks := make(chan chunk, 4096)
	go func() {
		defer close(chunks)
		for {
			p := make([]byte, 64<<10)
			n, err := src.Read(p)
			if n > 0 {
				chunks <- chunk{time.Now().Add(wanRTT / 2), p[:n]}
			}
			if err != nil {
				return
			}
		}
	}()
	for c := range chunks {
		time.Sleep(time.Until(c.due))
		if _, err := dst.Write(c.p); err != nil {
			_ = src.Close()
			break
		}
	}
	for range chunks { //revive:disable-line:empty-block the reader ends
	}
	_ = dst.Close()
}
