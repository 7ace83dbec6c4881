//go:build unix

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/pki"
)

const fleetBytes = 256 << 10 // that each device moves in each direction

// fleet measures a server process that holds thousands of real sessions.
func fleet(o *options) error {
	r := newReport(o)
	for _, c := range []struct{ stack, scheme string }{{naive, "wss"}, {ours, "wss"}, {naive, "ws"}, {ours, "ws"}} {
		name := c.stack + " " + c.scheme
		if !o.wants(name) {
			continue
		}
		if err := fleetCase(o, r, c.stack, c.scheme); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return r.writeFleet()
}

// child is the server process.
type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
	url string
}

func (k *keys) sent() (*sentKeys, error) {
	outer, err := k.ca.Server([]string{"localhost", "127.0.0.1"}, 0)
	if err != nil {
		return nil, err
	}
	server, err := k.ca.Server([]string{pki.ServerName}, 0)
	return &sentKeys{CA: k.ca.CertPEM(), Outer: outer, Server: server}, err
}

func (s *sentKeys) pool() (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(s.CA) {
		return nil, errors.New("no CA")
	}
	return pool, nil
}

func startChild(o *options, k *keys, stack, scheme string, env ...string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &child{cmd: exec.Command(self, "serve", "-heap", o.heap, "-cpuprofile", o.profile, stack, scheme)}
	c.cmd.Stderr = os.Stderr
	c.cmd.Env = append(os.Environ(), env...)
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = bufio.NewScanner(out)
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	sent, err := k.sent()
	if err != nil {
		return nil, err
	}
	if err := json.NewEncoder(c.in).Encode(sent); err != nil {
		return nil, err
	}
	if !c.out.Scan() {
		return nil, errors.New("the server process did not start")
	}
	c.url = map[string]string{"wss": "https", "ws": "http"}[scheme] + "://" + c.out.Text()
	return c, nil
}

func (c *child) stop() {
	_ = c.in.Close()
	_ = c.cmd.Wait()
}

// ask sends a command and returns what the process says of itself afterwards.
func (c *child) ask(cmd string) (stat, error) {
	var s stat
	if _, err := fmt.Fprintln(c.in, cmd); err != nil {
		return s, err
	}
	if !c.out.Scan() {
		return s, io.ErrUnexpectedEOF
	}
	if err := json.Unmarshal(c.out.Bytes(), &s); err != nil {
		return s, err
	}
	if s.Error != "" {
		return s, errors.New(s.Error)
	}
	return s, nil
}

// device is one of a fleet, with what it needs to connect again.
type device struct {
	tls     *tls.Config
	connect func() error
	up      func(n int64) error
	close   func()
}

func fleetCase(o *options, r *report, stack, scheme string) error {
	k, err := newKeys()
	if err != nil {
		return err
	}
	srv, err := startChild(o, k, stack, scheme)
	if err != nil {
		return err
	}
	defer srv.stop()
	name := stack + " " + scheme
	row := r.row(name)
	devices := make([]*device, o.devices)
	for i := range devices {
		if devices[i], err = newDevice(k, stack, srv.url, fmt.Sprintf("device-%d", i)); err != nil {
			return err
		}
	}
	defer func() {
		for _, d := range devices {
			d.close()
		}
	}()
	empty, err := srv.ask("stat")
	if err != nil {
		return err
	}
	if err := each(devices, func(d *device) error { return d.connect() }); err != nil {
		return err
	}
	full, err := srv.ask("stat")
	if err != nil {
		return err
	}
	row.add("connect", "CPU ms", (full.CPU-empty.CPU)*1e3/float64(o.devices))
	phase := func(phase, cmd string) error {
		if !strings.Contains(phase, o.cases) {
			return nil
		}
		if cmd != "" {
			if _, err := srv.ask(cmd); err != nil {
				return err
			}
		}
		time.Sleep(o.pause)
		s, err := srv.ask("stat")
		if err != nil {
			return err
		}
		if s.Sessions < o.devices {
			return fmt.Errorf("%s: only %d of %d sessions are left", phase, s.Sessions, o.devices)
		}
		per := func(v int64) float64 { return float64(v) / float64(o.devices) / 1024 }
		row.add(phase, "RSS KiB", per(s.Returned-empty.Returned))
		row.add(phase, "as it stands KiB", per(s.RSS-empty.RSS))
		row.add(phase, "heap KiB", per(s.Heap-empty.Heap))
		row.add(phase, "stack KiB", per(s.Stack-empty.Stack))
		row.add(phase, "goroutines", float64(s.Goroutines-empty.Goroutines)/float64(o.devices))
		logf("%s, %s: %.1f KiB (%.1f as it stands), heap %.1f, stacks %.1f, %.2f goroutines", name, phase,
			per(s.Returned-empty.Returned), per(s.RSS-empty.RSS), per(s.Heap-empty.Heap), per(s.Stack-empty.Stack),
			float64(s.Goroutines-empty.Goroutines)/float64(o.devices))
		if o.heap != "" {
			_, err = srv.ask("heap " + o.heap + "-" + phase)
		}
		return err
	}
	if err := phase("fresh", ""); err != nil {
		return err
	}
	if err := phase("signal", "signal"); err != nil {
		return err
	}
	if stack == ours && strings.Contains("traffic", o.cases) { // the naive stack's sessions die of so much at once
		if err := each(devices, func(d *device) error { return d.up(fleetBytes) }); err != nil {
			return err
		}
		if err := phase("traffic", fmt.Sprintf("down %d", fleetBytes)); err != nil {
			return err
		}
	}
	for _, d := range devices {
		d.close()
	}
	if err := srv.wait(func(s stat) bool { return s.Sessions == 0 }); err != nil {
		return err
	}
	before, err := srv.ask("stat")
	if err != nil {
		return err
	}
	if err := each(devices, func(d *device) error { return d.connect() }); err != nil {
		return err
	}
	again, err := srv.ask("stat")
	if err != nil {
		return err
	}
	row.add("reconnect", "CPU ms", (again.CPU-before.CPU)*1e3/float64(o.devices))
	for _, phase := range []string{"connect", "reconnect"} {
		v, _ := row.median(phase, "CPU ms")
		logf("%s: %s: %.2f ms of the server's CPU", name, phase, v)
	}
	return nil
}

func (c *child) wait(ok func(stat) bool) error {
	for range 600 {
		s, err := c.ask("stat")
		if err != nil || ok(s) {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
	return errors.New("the server did not come to rest")
}

func newDevice(k *keys, stack, url, id string) (*device, error) {
	p, err := k.ca.Device(id, 0)
	if err != nil {
		return nil, err
	}
	cert, err := p.TLS()
	if err != nil {
		return nil, err
	}
	d := &device{tls: k.innerClient(), close: func() {}}
	d.tls.Certificates = []tls.Certificate{cert}
	if stack == naive {
		d.naive(k, url)
	} else {
		d.ours(url)
	}
	return d, nil
}

func (d *device) ours(url string) {
	mux := new(client.Mux)
	mux.OnSignal("s", func(context.Context, client.Signal) (string, error) { return "", nil })
	if l, err := mux.Listen("sink"); err == nil {
		go sinkAll(l)
	}
	d.tls.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	cfg := &client.Config{URL: url, TLS: d.tls, Proxy: noProxy, Mux: mux, Carrier: client.CarrierWebSocket}
	var sess *client.Session
	d.connect = func() (err error) {
		if sess, err = client.Dial(context.Background(), cfg); err == nil {
			d.close = func() { _ = sess.Close() }
		}
		return err
	}
	d.up = func(n int64) error {
		conn, err := sess.Dial(context.Background(), "sink")
		if err != nil {
			return err
		}
		return sendAll(conn, n)
	}
}

func (d *device) naive(k *keys, url string) {
	var mux *yamux.Session
	d.connect = func() (err error) {
		if mux, err = naiveDial(k, url, d.tls); err != nil {
			return err
		}
		d.close = func() { _ = mux.Close() }
		go func(mux *yamux.Session) {
			for {
				conn, err := mux.Accept()
				if err != nil {
					return
				}
				go func() {
					buf := make([]byte, 100)
					if _, err := io.ReadFull(conn, buf); err == nil {
						_, _ = conn.Write(buf)
					}
					_, _ = io.Copy(io.Discard, conn)
					_ = conn.Close()
				}()
			}
		}(mux)
		return nil
	}
	d.up = func(n int64) error {
		conn, err := mux.Open()
		if err != nil {
			return err
		}
		return sendAll(conn, n)
	}
}

func (r *report) writeFleet() error {
	w, err := r.o.create("fleet.md")
	if err != nil {
		return err
	}
	r.o.head(w, "A server with many devices")
	_, _ = fmt.Fprintf(w, "A server process of its own with %d sessions over loopback, post-quantum key exchange inside. Per device.\n", r.o.devices)
	_, _ = fmt.Fprintf(w, "Memory is what the process holds beyond an empty server, %s after the named event; RSS after the runtime has\n", r.o.pause)
	_, _ = fmt.Fprint(w, "returned what is free, \"as it stands\" before. `ws` is behind a terminator that does the outer TLS.\n\n")
	_, _ = fmt.Fprint(w, "| stack | state | RSS KiB | as it stands KiB | heap KiB | stack KiB | goroutines |\n|---|---|---:|---:|---:|---:|---:|\n")
	units := []string{"RSS KiB", "as it stands KiB", "heap KiB", "stack KiB", "goroutines"}
	titles := map[string]string{"fresh": "fresh", "signal": "after one signal", "traffic": "after 256 KiB both ways"}
	var bars []bar
	for _, x := range r.rows {
		for _, phase := range []string{"fresh", "signal", "traffic"} {
			_, _ = fmt.Fprintf(w, "| %s | %s |", x.name, titles[phase])
			for _, u := range units {
				_, _ = fmt.Fprintf(w, " %s |", number(x.median(phase, u)))
			}
			_, _ = fmt.Fprintln(w)
			if v, ok := x.median(phase, "RSS KiB"); ok {
				bars = append(bars, bar{group: titles[phase], name: x.name, value: v})
			}
		}
	}
	_, _ = fmt.Fprint(w, "\n| stack | the server's CPU per connect, ms | and per reconnect, ms |\n|---|---:|---:|\n")
	for _, x := range r.rows {
		_, _ = fmt.Fprintf(w, "| %s | %s | %s |\n", x.name, number(x.median("connect", "CPU ms")), number(x.median("reconnect", "CPU ms")))
	}
	if err := w.Close(); err != nil {
		return err
	}
	return r.o.picture("fleet.svg", "RSS per idle device, KiB", byGroup(bars))
}

// byGroup puts the bars of a group together, in the order of their first ones.
func byGroup(bars []bar) (sorted []bar) {
	done := map[string]bool{}
	for _, b := range bars {
		if done[b.group] {
			continue
		}
		done[b.group] = true
		for _, c := range bars {
			if c.group == b.group {
				sorted = append(sorted, c)
			}
		}
	}
	return sorted
}
