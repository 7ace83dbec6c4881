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

// fleetCase is one kind of server.
type fleetCase struct {
	name, stack, scheme string
	env                 []string
}

// fleet measures a server process that holds thousands of real sessions: what a
// connect costs in alternating rounds, and memory once, which does not vary.
func fleet(o *options) error {
	r := newReport(o)
	little := []string{"GOGC=30"}
	var cases []fleetCase
	for _, c := range []fleetCase{
		{"naive wss", naive, "wss", nil}, {"atls-ws wss", ours, "wss", nil}, {"atls-ws wss GOGC=30", ours, "wss", little},
		{"naive ws", naive, "ws", nil}, {"atls-ws ws", ours, "ws", nil}, {"atls-ws ws GOGC=30", ours, "ws", little},
	} {
		if o.wants(c.name) {
			cases = append(cases, c)
		}
	}
	if strings.Contains("connects", o.cases) {
		for range o.rounds {
			for _, c := range cases {
				if err := c.run(o, func(f *started) error { return f.connects(r.row(c.name)) }); err != nil {
					return err
				}
			}
		}
	}
	for _, c := range cases {
		if o.cases == "connects" {
			break
		}
		if err := c.run(o, func(f *started) error { return f.memory(o, r.row(c.name)) }); err != nil {
			return err
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

// started is a server with a fleet that is connected.
type started struct {
	fleetCase
	srv         *child
	devices     []*device
	empty, full stat // before and after the devices connected
}

// run starts a server, connects the fleet, and ends both after do.
func (c fleetCase) run(o *options, do func(*started) error) error {
	k, err := newKeys()
	if err != nil {
		return err
	}
	f := &started{fleetCase: c, devices: make([]*device, o.devices)}
	if f.srv, err = startChild(o, k, c.stack, c.scheme, c.env...); err != nil {
		return err
	}
	defer f.srv.stop()
	for i := range f.devices {
		if f.devices[i], err = newDevice(k, c.stack, f.srv.url, fmt.Sprintf("device-%d", i)); err != nil {
			return err
		}
	}
	defer f.close()
	if f.empty, err = f.srv.ask("stat"); err != nil {
		return err
	}
	if f.full, err = f.connect(); err == nil {
		err = do(f)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	return nil
}

func (f *started) connect() (stat, error) {
	if err := each(f.devices, func(d *device) error { return d.connect() }); err != nil {
		return stat{}, err
	}
	return f.srv.ask("stat")
}

func (f *started) close() {
	for _, d := range f.devices {
		d.close()
	}
}

// connects measures how the fleet has connected, and connects again.
func (f *started) connects(row *row) error {
	f.close()
	if err := f.srv.wait(func(s stat) bool { return s.Sessions == 0 }); err != nil {
		return err
	}
	before, err := f.srv.ask("stat")
	if err != nil {
		return err
	}
	again, err := f.connect()
	if err != nil {
		return err
	}
	per := func(from, to stat) float64 { return (to.CPU - from.CPU) * 1e3 / float64(len(f.devices)) }
	first, second := per(f.empty, f.full), per(before, again)
	row.add("connect", "CPU ms", first)
	row.add("reconnect", "CPU ms", second)
	logf("%s: %.2f ms of the server's CPU per connect, %.2f per reconnect", f.name, first, second)
	return nil
}

// memory measures what the fleet costs the server.
func (f *started) memory(o *options, row *row) error {
	phase := func(phase, cmd string) error {
		if !strings.Contains(phase, o.cases) {
			return nil
		}
		if cmd != "" {
			if _, err := f.srv.ask(cmd); err != nil {
				return err
			}
		}
		time.Sleep(o.pause)
		s, err := f.srv.ask("stat")
		if err != nil {
			return err
		}
		if s.Sessions < len(f.devices) {
			return fmt.Errorf("%s: only %d of %d sessions are left", phase, s.Sessions, len(f.devices))
		}
		per := func(v int64) float64 { return float64(v) / float64(len(f.devices)) / 1024 }
		goroutines := float64(s.Goroutines-f.empty.Goroutines) / float64(len(f.devices))
		row.add(phase, "RSS KiB", per(s.Returned-f.empty.Returned))
		row.add(phase, "as it stands KiB", per(s.RSS-f.empty.RSS))
		row.add(phase, "heap KiB", per(s.Heap-f.empty.Heap))
		row.add(phase, "stack KiB", per(s.Stack-f.empty.Stack))
		row.add(phase, "goroutines", goroutines)
		logf("%s, %s: %.1f KiB (%.1f as it stands), heap %.1f, stacks %.1f, %.2f goroutines", f.name, phase,
			per(s.Returned-f.empty.Returned), per(s.RSS-f.empty.RSS), per(s.Heap-f.empty.Heap), per(s.Stack-f.empty.Stack), goroutines)
		if o.heap != "" {
			_, err = f.srv.ask("heap " + o.heap + "-" + phase)
		}
		return err
	}
	if err := phase("fresh", ""); err != nil {
		return err
	}
	if err := phase("signal", "signal"); err != nil {
		return err
	}
	if f.stack != ours || !strings.Contains("traffic", o.cases) { // the naive stack's sessions die of so much at once
		return nil
	}
	if err := each(f.devices, func(d *device) error { return d.up(fleetBytes) }); err != nil {
		return err
	}
	return phase("traffic", fmt.Sprintf("down %d", fleetBytes))
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
