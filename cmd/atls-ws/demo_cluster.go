//go:build !device

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/balance"
	"github.com/atls-ws/atls-ws/internal/child"
	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/pki"
	"github.com/atls-ws/atls-ws/internal/sim"
)

const (
	clusterDevices = 200
	clusterSignals = 5 // for each device, in each of two rounds
	clusterStep    = 40 * time.Second
	clusterDrain   = "6s"
	clusterAtOnce  = 8
	clusterWait    = 5 * time.Second // for the ack of a push; it stays queued
	clusterRepeat  = 100 * time.Millisecond
)

// clusterDemo is three nodes and 200 devices on one machine.
type clusterDemo struct {
	demo
	nodes    []*demoNode
	balancer *balance.Balancer
	fleet    *sim.Fleet
	echo     net.Listener
	pushed   atomic.Int64 // signals of which the outcome was told
	repeats  atomic.Int64

	mu      sync.Mutex
	applied map[string][]int // by device, in order
}

// heard is a writer that ends the demo when it breaks.
type heard struct {
	io.Writer
	stop func()
}

func (h *heard) Write(b []byte) (int, error) {
	n, err := h.Writer.Write(b)
	if err != nil {
		h.stop()
	}
	return n, err
}

// demoNode is one node.
type demoNode struct {
	name, listen, peers, nats string
	proc                      *child.Child
}

// runClusterDemo plays it; stop is called when nobody reads what it says.
func runClusterDemo(ctx context.Context, stop func(), out io.Writer) error {
	d := &clusterDemo{demo: demo{ctx: ctx, out: &heard{out, stop}, step: clusterStep, again: "atls-ws demo --cluster"}, applied: map[string][]int{}}
	return d.play(d.prepare, d.startNodes, d.connectDevices, d.killOne, d.relay, d.restartAll, d.stop)
}

func (d *clusterDemo) prepare(ctx context.Context) (err error) {
	d.say("A throw-away PKI is made: an authority, the service's certificate, and one for each node.")
	if err := d.makeDir(); err != nil {
		return err
	}
	if _, err := d.run(ctx, nil, "pki", "init", "--dir", "pki"); err != nil {
		return err
	}
	if _, err := d.run(ctx, nil, "pki", "device", "--dir", "pki", demoDevice); err != nil {
		return err
	}
	addrs, err := freeAddrs(ctx, 9)
	if err != nil {
		return err
	}
	var routes []string
	for i, name := range []string{"a", "b", "c"} {
		if _, err := d.run(ctx, nil, "pki", "node", "--dir", "pki", name); err != nil {
			return err
		}
		d.nodes = append(d.nodes, &demoNode{name: name, listen: addrs[3*i], peers: addrs[3*i+1], nats: addrs[3*i+2]})
		routes = append(routes, strconv.Quote("nats://"+addrs[3*i+2]))
	}
	text := `inner: {cert: pki/server.pem, key: pki/server-key.pem, client_ca: pki/ca.pem}
admin: "{node}.sock"
data: "data-{node}"
nats:
  cluster: {name: demo, routes: [` + strings.Join(routes, ", ") + `]}
cluster: {cert: "pki/node-{node}.pem", key: "pki/node-{node}-key.pem", ca: pki/ca.pem}
drain: ` + clusterDrain + "\n"
	return os.WriteFile(d.path("cluster.yaml"), []byte(text), 0o600)
}

// freeAddrs are loopback addresses on which nobody listens.
func freeAddrs(ctx context.Context, n int) (addrs []string, err error) {
	for range n {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }() // all at the end, so that they differ
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}

func (d *clusterDemo) startNode(n *demoNode) (err error) {
	if err := d.ctx.Err(); err != nil {
		return err
	}
	n.proc, err = child.Start("node "+n.name, d.command("server", "--config", "cluster.yaml", "--node", n.name,
		"--listen", n.listen, "--cluster-listen", n.peers, "--nats-listen", n.nats))
	if err == nil {
		d.children = append(d.children, n.proc)
	}
	return err
}

// stopNodes stops them side by side: more than half are needed to store anything.
func (d *clusterDemo) stopNodes() {
	var stopping sync.WaitGroup
	for _, n := range d.nodes {
		if n.proc != nil {
			stopping.Go(func() { n.proc.Stop(2 * demoGrace) })
		}
	}
	stopping.Wait()
}

func (d *clusterDemo) startNodes(ctx context.Context) error {
	d.say("Three nodes start from one configuration file: atls-ws server --config cluster.yaml --node a, b, c")
	began := time.Now()
	d.ends = append(d.ends, d.stopNodes)
	for _, n := range d.nodes {
		if err := d.startNode(n); err != nil {
			return err
		}
	}
	for _, n := range d.nodes {
		if _, err := n.proc.Await(ctx, "msg=listening"); err != nil {
			return err
		}
		d.tell("node %s: devices at %s, other nodes at %s, NATS at %s", n.name, n.listen, n.peers, n.nats)
	}
	var err error
	if d.balancer, err = balance.Start(ctx, config.DefaultPath, d.nodes[0].listen, d.nodes[1].listen, d.nodes[2].listen); err != nil {
		return err
	}
	d.ends = append(d.ends, d.balancer.Close)
	d.tell("ready after %s; in front of them a TCP round robin at %s", time.Since(began).Round(100*time.Millisecond), d.balancer.Addr())
	return nil
}

func (d *clusterDemo) connectDevices(ctx context.Context) error {
	ca, err := pki.LoadCA(d.path("pki"))
	if err != nil {
		return err
	}
	if d.fleet, err = sim.New(sim.Options{URL: "http://" + d.balancer.Addr(), CA: ca, Count: clusterDevices, Carrier: client.CarrierWebSocket, Handle: d.handle}); err != nil {
		return err
	}
	running, cancel := context.WithCancel(d.ctx)
	var run sync.WaitGroup
	run.Go(func() { d.fleet.Run(running, 0, clusterDevices, 200) })
	d.ends = append(d.ends, func() { cancel(); run.Wait() })
	d.say("%d devices connect, each to the node that the round robin gives it.", clusterDevices)
	if d.echo, err = new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0"); err != nil {
		return err
	}
	var echoing sync.WaitGroup
	echoing.Go(func() { serveEcho(d.echo) })
	d.ends = append(d.ends, func() { _ = d.echo.Close(); echoing.Wait() })
	if _, err := d.start("device", "device", "--carrier", "websocket", "--url", "http://"+d.balancer.Addr(), "--cert", "pki/device-"+demoDevice+".pem", "--key", "pki/device-"+demoDevice+"-key.pem",
		"--ca", "pki/ca.pem", "--service", "echo=tcp://"+d.echo.Addr().String()); err != nil {
		return err
	}
	if err := d.until(ctx, func() bool { return d.fleet.Stats().Up == clusterDevices }); err != nil {
		return fmt.Errorf("%d of %d devices are connected: %w", d.fleet.Stats().Up, clusterDevices, err)
	}
	return d.tellWhere(ctx, d.nodes[0])
}

// serveEcho sends back what comes, one connection after the other.
func serveEcho(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.Copy(c, c)
		_ = c.Close()
	}
}

func (d *clusterDemo) handle(device string, s client.Signal) (string, error) {
	n, err := strconv.Atoi(string(s.Data))
	if err != nil {
		return "", err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.applied[device] = append(d.applied[device], n)
	return "did " + string(s.Data), nil
}

// tellWhere says how many devices each node has, as one of them lists them.
func (d *clusterDemo) tellWhere(ctx context.Context, ask *demoNode) error {
	var counts map[string]int
	err := d.until(ctx, func() bool {
		all, err := d.client(ask).Devices(ctx)
		counts = map[string]int{}
		for _, dev := range all {
			counts[dev.Node]++
		}
		return err == nil && len(all) == clusterDevices+1
	})
	var each []string
	for _, n := range d.nodes {
		each = append(each, fmt.Sprintf("%s %d", n.name, counts[n.name]))
	}
	d.tell("atls-ws devices at node %s lists them all: %s", ask.name, strings.Join(each, ", "))
	return err
}

func (d *clusterDemo) until(ctx context.Context, cond func() bool) error {
	for !cond() {
		timer := time.NewTimer(50 * time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
	return nil
}

func (d *clusterDemo) client(n *demoNode) *admin.Client {
	return admin.NewClient(d.path(n.name + ".sock"))
}

// pushRound pushes the signals from..from+clusterSignals to all devices, each
// again with its id until a node says what became of it.
func (d *clusterDemo) pushRound(ctx context.Context, from int, at func() *demoNode) error {
	errs := make(chan error, clusterAtOnce)
	for k := range clusterAtOnce { // each has its devices, so that their order is known
		go func() { // ends with its devices or ctx; the caller waits for errs
			errs <- func() error {
				for n := range clusterSignals {
					for i := k; i < clusterDevices; i += clusterAtOnce {
						if err := d.pushOne(ctx, d.fleet.ID(i), from+n, at); err != nil {
							return err
						}
					}
				}
				return nil
			}()
		}()
	}
	var all error
	for range clusterAtOnce {
		all = errors.Join(all, <-errs)
	}
	return all
}

func (d *clusterDemo) pushOne(ctx context.Context, device string, n int, at func() *demoNode) error {
	p := &admin.Push{Device: device, Name: "do", Data: []byte(strconv.Itoa(n)), Timeout: clusterWait}
	for {
		o, err := d.client(at()).Push(ctx, p)
		var unreachable *admin.UnreachableError
		var broken *admin.BrokenError
		var outcome *admin.OutcomeError
		switch {
		case err == nil && (o.State == admin.Acked || !o.Final()):
			d.pushed.Add(1)
			return nil
		case err == nil:
			return fmt.Errorf("%s: %s", device, o)
		case errors.As(err, &unreachable), errors.As(err, &broken), errors.As(err, &outcome) && (outcome.State == admin.Unavailable || outcome.State == admin.Timeout):
			d.repeats.Add(1)
		default:
			return fmt.Errorf("%s: %w", device, err)
		}
		timer := time.NewTimer(clusterRepeat)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// applyAll waits until every device has handled total signals, and says whether
// each was handled once and in order.
func (d *clusterDemo) applyAll(ctx context.Context, total int) error {
	count := func() (n int) {
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, all := range d.applied {
			n += len(all)
		}
		return n
	}
	if err := d.until(ctx, func() bool { return count() >= total*clusterDevices }); err != nil {
		return fmt.Errorf("%d of %d signals were applied: %w", count(), total*clusterDevices, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for device, all := range d.applied {
		for i, n := range all {
			if n != i || len(all) != total {
				return fmt.Errorf("%s applied %v", device, all)
			}
		}
	}
	d.tell("applied on the devices: %d of %d signals, each exactly once, in order at each device", total*clusterDevices, total*clusterDevices)
	return nil
}

func (d *clusterDemo) killOne(ctx context.Context) error {
	const total = clusterSignals * clusterDevices
	d.say("Node a pushes %d signals to the %d devices; in the middle node b is killed with SIGKILL.", total, clusterDevices)
	began := time.Now()
	done := make(chan error, 1)
	go func() { done <- d.pushRound(ctx, 0, func() *demoNode { return d.nodes[0] }) }()
	if err := d.until(ctx, func() bool { return d.pushed.Load() > total/3 || len(done) > 0 }); err != nil {
		return err
	}
	d.nodes[1].proc.Kill()
	d.tell("node b is dead after %d pushes; its devices and its part in NATS go over to the others", d.pushed.Load())
	if err := <-done; err != nil {
		return err
	}
	d.tell("all %d are pushed after %s; %d pushes were repeated with their id", total, time.Since(began).Round(100*time.Millisecond), d.repeats.Load())
	if err := d.applyAll(ctx, clusterSignals); err != nil {
		return err
	}
	if err := d.tellWhere(ctx, d.nodes[2]); err != nil {
		return err
	}
	if err := d.startNode(d.nodes[1]); err != nil {
		return err
	}
	_, err := d.nodes[1].proc.Await(ctx, "msg=listening")
	d.tell("node b is started again")
	return err
}

// at is the node that has a device.
func (d *clusterDemo) at(ctx context.Context, device string) (*demoNode, error) {
	out, err := d.run(ctx, nil, "devices", "--admin", "a.sock", "--json")
	if err != nil {
		return nil, err
	}
	var all []admin.Device
	if err := json.Unmarshal(out, &all); err != nil {
		return nil, err
	}
	for _, dev := range all {
		for _, n := range d.nodes {
			if dev.Device == device && dev.Node == n.name {
				return n, nil
			}
		}
	}
	return nil, fmt.Errorf("%s is not connected", device)
}

func (d *clusterDemo) relay(ctx context.Context) error {
	holder, err := d.at(ctx, demoDevice)
	if err != nil {
		return err
	}
	d.say("A service of the device %s, which is at node %s, is reached from every node: atls-ws dial %s echo", demoDevice, holder.name, demoDevice)
	for _, n := range d.nodes {
		text := "through node " + n.name
		out, err := d.run(ctx, strings.NewReader(text), "dial", "--admin", n.name+".sock", demoDevice, "echo")
		if err != nil {
			return err
		}
		if string(out) != text {
			return fmt.Errorf("the echo at node %s is %q", n.name, out)
		}
		way := "over mutual TLS to node " + holder.name
		if n == holder {
			way = "directly"
		}
		d.tell("from node %s, %s: %q comes back", n.name, way, out)
	}
	return nil
}

func (d *clusterDemo) restartAll(ctx context.Context) error {
	d.say("A rolling restart, while %d more signals are pushed: each node gets SIGTERM and asks its devices to move.", clusterSignals*clusterDevices)
	before := d.fleet.Stats().Sessions
	d.fleet.CountAgain()
	var turn atomic.Int64
	done := make(chan error, 1)
	go func() { // another node each time: one of them is down
		done <- d.pushRound(ctx, clusterSignals, func() *demoNode { return d.nodes[turn.Add(1)%3] })
	}()
	for _, n := range d.nodes {
		began := time.Now()
		n.proc.Stop(2 * clusterStep) // SIGTERM; longer than the node takes
		if code := n.proc.ExitCode(); code != 0 {
			return fmt.Errorf("node %s exits %d", n.name, code)
		}
		drained := time.Since(began)
		if err := d.startNode(n); err != nil {
			return err
		}
		if _, err := n.proc.Await(ctx, "msg=listening"); err != nil {
			return err
		}
		d.tell("node %s: drained in %s, back after %s", n.name, drained.Round(100*time.Millisecond), time.Since(began).Round(100*time.Millisecond))
	}
	if err := <-done; err != nil {
		return err
	}
	stats := d.fleet.Stats()
	d.tell("%d reconnections, in the busiest second %d", stats.Sessions-before, stats.Busiest)
	if err := d.applyAll(ctx, 2*clusterSignals); err != nil {
		return err
	}
	return d.tellWhere(ctx, d.nodes[0])
}
