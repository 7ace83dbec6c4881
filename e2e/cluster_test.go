//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/sim"
)

// clusterStorm pushes signals to devices of a cluster while something happens,
// and checks that each was applied once and in order.
func clusterStorm(t *testing.T, c *cluster, signals, devices int, at func() *clusterNode, happens func(told func() int64, ctx context.Context)) {
	t.Helper()
	seen := &applied{got: map[string][]string{}, ids: map[string]int{}}
	f, err := sim.New(sim.Options{URL: "http://" + c.balancer.Addr(), CA: c.ca, Count: devices, Carrier: client.CarrierWebSocket, Handle: seen.handle})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { f.Run(ctx, 0, devices, 200) })
	w := &storm{t: t, admin: c.client(c.nodes[0]), applied: seen, fleet: f}
	began := time.Now()
	var pushing sync.WaitGroup
	const pushers = 16
	for k := range pushers {
		pushing.Go(func() {
			for n := range signals / devices {
				for i := k; i < devices; i += pushers {
					o, repeats, err := c.sure(ctx, &admin.Push{Device: f.ID(i), Name: "do", Data: []byte(fmt.Sprint(n)), Timeout: 5 * time.Second}, at)
					if err != nil || o.Final() && o.State != admin.Acked {
						t.Errorf("%s: %v, %v", f.ID(i), o, err)
						return
					}
					w.repeats.Add(int64(repeats))
					w.told.Add(1)
					if o.State == admin.Acked && !seen.has(f.ID(i), fmt.Sprint(n)) {
						w.lies.Add(1)
					}
				}
			}
		})
	}
	happens(w.told.Load, ctx)
	pushing.Wait()
	total := signals / devices * devices
	for seen.count() < total && ctx.Err() == nil {
		time.Sleep(5 * time.Millisecond)
	}
	t.Logf("%d signals to %d devices applied after %s; %d pushes were repeated; %+v", total, devices,
		time.Since(began).Round(time.Millisecond), w.repeats.Load(), f.Stats())
	w.check(signals/devices, devices)
}

func reach(ctx context.Context, told func() int64, n int) {
	for told() < int64(n) && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
}

func TestKilledNodeLosesAndRepeatsNothing(t *testing.T) {
	signals, devices := scale("ATLS_E2E_CLUSTER_SIGNALS", 2000), 100
	c := newCluster(t, "", "")
	var turn atomic.Int64
	alive := func() *clusterNode { return c.nodes[2*(turn.Add(1)%2)] } // a and c
	clusterStorm(t, c, signals, devices, alive, func(told func() int64, ctx context.Context) {
		reach(ctx, told, signals/3)
		kill9(t, c.node("b").proc)
		reach(ctx, told, signals*2/3)
		c.start(c.node("b"), true)
		await(t, c.node("b").proc, "msg=listening")
	})
}

// cutter is a TCP relay that can be cut.
type cutter struct {
	l  net.Listener
	to string

	mu    sync.Mutex
	cut   bool
	conns []net.Conn
	wg    sync.WaitGroup
}

func newCutter(t *testing.T, to string) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{l: l, to: to}
	c.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", to)
			c.mu.Lock()
			if err != nil || c.cut {
				_ = conn.Close()
				if err == nil {
					_ = up.Close()
				}
				c.mu.Unlock()
				continue
			}
			c.conns = append(c.conns, conn, up)
			c.mu.Unlock()
			for _, p := range [][2]net.Conn{{conn, up}, {up, conn}} {
				c.wg.Go(func() {
					_, _ = io.Copy(p[0], p[1])
					_, _ = p[0].Close(), p[1].Close()
				})
			}
		}
	})
	t.Cleanup(func() { _ = l.Close(); c.set(true); c.wg.Wait() })
	return c
}

func (c *cutter) set(cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = cut
	if cut {
		for _, conn := range c.conns {
			_ = conn.Close()
		}
		c.conns = nil
	}
}

// startNATS runs a NATS server of its own with JetStream.
func startNATS(t *testing.T) (addr string) {
	t.Helper()
	dir := t.TempDir()
	bin := dir + "/nats-server"
	if out, err := exec.Command("go", "build", "-o", bin, "github.com/nats-io/nats-server/v2").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	port := freePort(t)
	await(t, start(t, "nats", exec.Command(bin, "-a", "127.0.0.1", "-p", port, "-js", "-sd", dir+"/js")), "Server is ready")
	return "127.0.0.1:" + port
}

func TestNATSThatIsCutOffLosesAndRepeatsNothing(t *testing.T) {
	signals, devices := 1000, 50
	way := newCutter(t, startNATS(t))
	c := newCluster(t, "nats://"+way.l.Addr().String(), "")
	var turn atomic.Int64
	clusterStorm(t, c, signals, devices, func() *clusterNode { return c.nodes[turn.Add(1)%3] }, func(told func() int64, ctx context.Context) {
		reach(ctx, told, signals/3)
		way.set(true)
		time.Sleep(3 * time.Second) // the cut, not a wait for something
		way.set(false)
	})
}

// A node that was stopped learns, when it goes on, that its devices are elsewhere.
func TestStoppedNodeIsFenced(t *testing.T) {
	c := newCluster(t, "", "limits: {keepalive: 2s}")
	seen := &applied{got: map[string][]string{}, ids: map[string]int{}}
	f, err := sim.New(sim.Options{URL: "http://" + c.balancer.Addr(), CA: c.ca, Count: 1, Carrier: client.CarrierWebSocket, Handle: seen.handle})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { f.Run(ctx, 0, 1, 0) })
	device := f.ID(0)
	stale := c.holder(device, c.nodes[0], "")
	other := c.nodes[0]
	if other == stale {
		other = c.nodes[1]
	}
	at := func() *clusterNode { return other }
	for n := range 5 {
		if o, _, err := c.sure(ctx, &admin.Push{Device: device, Name: "do", Data: []byte(fmt.Sprint(n))}, at); err != nil || o.Final() && o.State != admin.Acked {
			t.Fatalf("%v, %v", o, err)
		}
	}
	for seen.count() < 5 && ctx.Err() == nil {
		time.Sleep(5 * time.Millisecond)
	}
	if err := syscall.Kill(stale.proc.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(stale.proc.PID(), syscall.SIGCONT) }()
	// Until the device has noticed, its signals wait.
	for n := 5; n < 8; n++ {
		if _, _, err := c.sure(ctx, &admin.Push{Device: device, Name: "do", Data: []byte(fmt.Sprint(n)), Timeout: time.Second}, at); err != nil {
			t.Fatal(err)
		}
	}
	c.holder(device, other, stale.name)
	for seen.count() < 8 && ctx.Err() == nil {
		time.Sleep(5 * time.Millisecond)
	}
	if err := syscall.Kill(stale.proc.PID(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	await(t, stale.proc, "device disconnected", device)
	for n := 8; n < 12; n++ { // from the node that was stopped, too
		if o, _, err := c.sure(ctx, &admin.Push{Device: device, Name: "do", Data: []byte(fmt.Sprint(n)), Timeout: 20 * time.Second}, func() *clusterNode { return stale }); err != nil || o.Final() && o.State != admin.Acked {
			t.Fatalf("%v, %v", o, err)
		}
	}
	for seen.count() < 12 && ctx.Err() == nil {
		time.Sleep(5 * time.Millisecond)
	}
	seen.mu.Lock()
	defer seen.mu.Unlock()
	if got := strings.Join(seen.got[device], " "); got != "0 1 2 3 4 5 6 7 8 9 10 11" {
		t.Errorf("applied: %s", got)
	}
}

func TestStreamsBetweenNodesKeepHalfCloseAndRefusals(t *testing.T) {
	c := newCluster(t, "", "")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { // answers after the end of the request: half-close must pass
				all, _ := io.ReadAll(conn)
				_, _ = conn.Write(bytes.ToUpper(all))
				_ = conn.Close()
			})
		}
	})
	defer serving.Wait()
	defer func() { _ = l.Close() }()
	d := start(t, "device", exec.Command(exe, c.deviceArgs("http://"+c.balancer.Addr(), "--service", "up=tcp://"+l.Addr().String())...))
	await(t, d, "session ready")
	for _, n := range c.nodes {
		socket := c.file(n.name + ".sock")
		// The other nodes hear of the device a moment after it is ready.
		for ctx := bounded(t); !bytes.Contains(must(t, nil, "devices", "--admin", socket), []byte(deviceID)); {
			select {
			case <-ctx.Done():
				t.Fatalf("node %s does not hear of the device", n.name)
			case <-time.After(100 * time.Millisecond):
			}
		}
		if got := must(t, strings.NewReader("half close"), "dial", "--admin", socket, deviceID, "up"); string(got) != "HALF CLOSE" {
			t.Errorf("node %s: %q", n.name, got)
		}
		run(t, nil, "dial", "--admin", socket, deviceID, "nothing").fails(t, 1, "not found", "no service nothing")
		run(t, nil, "dial", "--admin", socket, "nobody", "up").fails(t, 1, "not connected")
		big := strings.Repeat("x", 4<<20)
		if got := must(t, strings.NewReader(big), "dial", "--admin", socket, deviceID, "up"); string(got) != strings.ToUpper(big) {
			t.Errorf("node %s: %d bytes of %d", n.name, len(got), len(big))
		}
	}
	// Only nodes are let in: not a device, although the same authority vouches for it.
	out, err := exec.Command("curl", "-sk", "--cert", c.cert("device"), "--key", c.key("device"), "https://"+c.nodes[0].peers+"/v1/devices").CombinedOutput()
	if err == nil || len(out) > 0 {
		t.Errorf("a device is let in: %v %s", err, out)
	}
}

// All devices of a node that is stopped come back to the others, not all at once.
func TestDrainedNodeHandsItsDevicesOver(t *testing.T) {
	c := newCluster(t, "", "drain: 8s")
	const devices = 150
	seen := &applied{got: map[string][]string{}, ids: map[string]int{}}
	f, err := sim.New(sim.Options{URL: "http://" + c.balancer.Addr(), CA: c.ca, Count: devices, Carrier: client.CarrierWebSocket, Handle: seen.handle})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { f.Run(ctx, 0, devices, 200) })
	for f.Stats().Up < devices && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
	began := time.Now()
	b := c.node("b")
	b.proc.Stop(20 * time.Second)
	if b.proc.ExitCode() != 0 {
		t.Errorf("exit %d", b.proc.ExitCode())
	}
	for f.Stats().Up < devices && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
	s := f.Stats()
	t.Logf("%d devices moved within %s, in the busiest second %d", s.Sessions-devices, time.Since(began).Round(time.Millisecond), s.Busiest)
	if s.Sessions-devices > 60 {
		t.Errorf("%d reconnections of 50 devices", s.Sessions-devices)
	}
	for _, n := range []string{"a", "c"} {
		all, err := c.client(c.node(n)).Devices(ctx)
		if err != nil || len(all) != devices {
			t.Errorf("node %s lists %d devices: %v", n, len(all), err)
		}
	}
}
