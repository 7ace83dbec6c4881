package daemon

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/fault"
	"github.com/atls-ws/atls-ws/internal/pki"
)

const (
	peerFaults  = 6 // connections to a node that are treated badly; what comes after them is not
	busFaults   = 1 // and to NATS, of each node
	peerSignals = 20
)

// TestFaultsBetweenNodes has two nodes whose ways to each other and to NATS break
// at any byte, and a device at each, of which the other node makes use: each is
// handled every signal once and in order, no stream is wrong or ends early
// without an error, at either end, and all is well once the ways are. Nothing is
// left. ATLS_FAULT_SEEDS=N tries N seeds, ATLS_FAULT_SEED=S one again.
func TestFaultsBetweenNodes(t *testing.T) {
	for _, seed := range faultSeeds(0) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			before := measure()
			t.Run("nodes", func(t *testing.T) { faultsBetweenNodes(t, seed) })
			if after := measure(); after.files > before.files+5 {
				t.Errorf("descriptors are left: %d, before %d", after.files, before.files)
			}
		})
	}
}

// faultSeeds are n known seeds and one of chance, or what the environment says.
func faultSeeds(n uint64) []uint64 {
	if seed, err := strconv.ParseUint(os.Getenv("ATLS_FAULT_SEED"), 10, 64); err == nil {
		return []uint64{seed}
	}
	seeds := []uint64{rand.Uint64N(1 << 32)}
	for seed := range n {
		seeds = append(seeds, seed+1)
	}
	if n, err := strconv.Atoi(os.Getenv("ATLS_FAULT_SEEDS")); err == nil {
		for len(seeds) < n {
			seeds = append(seeds, rand.Uint64N(1<<32))
		}
	}
	return seeds
}

func faultsBetweenNodes(t *testing.T, seed uint64) {
	w := &ways{t: t, seed: seed}
	c := newCluster(t)
	for i, name := range []string{"a", "b"} {
		stream := uint64(10 * (i + 1))
		bus := w.proxy("NATS of "+name, c.nats, stream, busFaults, true)
		way := w.proxy("way to "+name, "", stream+1, peerFaults, false)
		s := c.start(name, func(cfg *config.Server) {
			cfg.NATS.URL, cfg.Cluster.Advertise, cfg.Limits.Keepalive = "tls://"+bus.Addr(), way.Addr(), keepalive
		})
		way.To(s.log.match(t, `msg="listening for nodes" addr=(\S+)`))
	}
	t.Cleanup(func() { // before the nodes end
		if t.Failed() {
			w.tell()
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for i, at := range [][2]string{{"a", "b"}, {"b", "a"}} {
		p := newPatient(t, fmt.Sprintf("d-%d", i), c.node[at[1]])
		wg.Go(func() { p.live(ctx, c.node[at[0]].admin, seed+uint64(i)) })
	}
	wg.Wait()
}

// TestFaultsBetweenOperatorAndConsole has an operator elsewhere whose way to the
// console breaks at any byte: what TestFaultsBetweenNodes holds is held, and of
// the events that the operator reads none is lost or comes twice.
func TestFaultsBetweenOperatorAndConsole(t *testing.T) {
	for _, seed := range faultSeeds(0) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { faultsBetweenOperatorAndConsole(t, seed) })
	}
}

func faultsBetweenOperatorAndConsole(t *testing.T, seed uint64) {
	s, _ := consoleSite(t, "localhost", nil)
	w := &ways{t: t, seed: seed}
	way := w.proxy("way to the console", s.log.match(t, `msg=console addr=(\S+)`), 1, 2*peerFaults, false)
	t.Cleanup(func() {
		if t.Failed() {
			w.tell()
		}
	})
	_, port, _ := net.SplitHostPort(way.Addr())
	c := admin.NewRemote("https://localhost:"+port, admin.Remote{Token: "0123456789abcdef",
		CA: pki.CertPath(filepath.Join(filepath.Dir(s.cfg.Admin), "public"), pki.CAFile)})
	p := newPatient(t, "d-0", s)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	acked := make(chan string, 1000)
	reading, enough := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer enough()
	wg.Go(func() {
		f := &admin.EventFilter{Devices: []string{p.id}, Types: []string{admin.TypeSignal + admin.Acked}, After: admin.Oldest}
		for reading.Err() == nil {
			_ = c.Events(reading, f, func(e admin.Event) error { acked <- e.Signal; return nil })
		}
	})
	want := p.live(ctx, c, seed)
	var got []string
	for len(got) < len(want) && ctx.Err() == nil {
		select {
		case id := <-acked:
			got = append(got, id)
		case <-ctx.Done():
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d events of %d signals: %q, want %q", len(got), len(want), got, want)
	}
}

// ways are the proxies of a test, each with plans of the same seed.
type ways struct {
	t    *testing.T
	seed uint64

	mu    sync.Mutex
	plans []string
}

// proxy treats so many connections badly. The first to NATS comes through: a node
// that cannot connect when it starts gives up at once.
func (w *ways) proxy(what, target string, stream uint64, faults int, bus bool) *fault.Proxy {
	w.t.Helper()
	rng := rand.New(rand.NewPCG(w.seed, stream))
	p := must[*fault.Proxy](w.t)(fault.Listen(target, func(n int) fault.Plan {
		switch {
		case bus && n == 0:
			return fault.Plan{Down: []fault.Fault{{At: 60 << 10, Kind: fault.Cut}}} // on to the next
		case n > faults:
			return fault.Plan{}
		}
		stall := faultStall
		if bus {
			stall = time.Second // the lease is not what is tested
		}
		plan := fault.Random(rng, 100<<10, stall)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.plans = append(w.plans, fmt.Sprintf("%s, connection %d: %s", what, n, plan))
		return plan
	}))
	w.t.Cleanup(p.Close)
	return p
}

func (w *ways) tell() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.t.Logf("again with ATLS_FAULT_SEED=%d; what happened to the connections:\n%s", w.seed, strings.Join(w.plans, "\n"))
}

// patient is a device that says what it was handled, and whose service notices
// when what looks like the end of a stream is not.
type patient struct {
	t  *testing.T
	id string

	mu      sync.Mutex
	handled []string
}

func newPatient(t *testing.T, id string, s *site) *patient {
	t.Helper()
	p := &patient{t: t, id: id}
	mux := new(client.Mux)
	mux.OnSignal(client.AnySignal, func(_ context.Context, sig client.Signal) (string, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.handled = append(p.handled, sig.Name)
		return "did " + sig.Name, nil
	})
	l := must[net.Listener](t)(mux.Listen("echo"))
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { p.echo(conn.(*client.Stream)) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	s.connect(id, mux)
	return p
}

// echo answers with what it was sent, once that has come to its end.
func (p *patient) echo(conn *client.Stream) {
	got, err := io.ReadAll(conn)
	if err != nil {
		conn.Reset()
		return
	}
	if !whole(got) {
		p.t.Errorf("%s: %d bytes that are not all, or not right, ended as if they were", p.id, len(got))
	}
	_, _ = conn.Write(got)
	_ = conn.Close()
}

// letter makes n random bytes of which can be told whether they are all, and right.
func letter(rng *rand.Rand, n int) []byte {
	b := make([]byte, 16+n)
	binary.BigEndian.PutUint64(b, uint64(n))
	seed := rng.Uint64()
	binary.BigEndian.PutUint64(b[8:], seed)
	fill(b[16:], seed)
	return b
}

func fill(b []byte, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 0))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
}

func whole(b []byte) bool {
	if len(b) < 16 || binary.BigEndian.Uint64(b) != uint64(len(b)-16) {
		return false
	}
	want := make([]byte, len(b)-16)
	fill(want, binary.BigEndian.Uint64(b[8:]))
	return bytes.Equal(b[16:], want)
}

// live makes use of the device through c while the ways break, and then once more.
// It returns the ids of the signals.
func (p *patient) live(ctx context.Context, c *admin.Client, seed uint64) (ids []string) {
	streaming, enough := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for i := range uint64(3) {
		rng := rand.New(rand.NewPCG(seed, 100+i))
		wg.Go(func() {
			for streaming.Err() == nil {
				if err := p.send(streaming, c, letter(rng, rng.IntN(100<<10))); err != nil {
					time.Sleep(10 * time.Millisecond)
				}
			}
		})
	}
	rng := rand.New(rand.NewPCG(seed, 99))
	var want []string
	for i := range peerSignals {
		want = append(want, fmt.Sprintf("s-%d", i))
		ids = append(ids, p.push(ctx, c, &admin.Push{Device: p.id, Name: want[i], Timeout: time.Second, NoWait: rng.IntN(2) == 0, Data: make([]byte, rng.IntN(4<<10))}))
		time.Sleep(time.Duration(rng.IntN(40)) * time.Millisecond)
	}
	enough()
	wg.Wait()
	// Connections that would still be treated badly are used up.
	for ctx.Err() == nil && p.send(ctx, c, letter(rng, 150<<10)) != nil {
		time.Sleep(10 * time.Millisecond)
	}
	want = append(want, "last")
	ids = append(ids, p.push(ctx, c, &admin.Push{Device: p.id, Name: "last", Timeout: 5 * time.Second}))
	names := func() []string { p.mu.Lock(); defer p.mu.Unlock(); return slices.Clone(p.handled) }
	for len(names()) < len(want) && ctx.Err() == nil {
		time.Sleep(5 * time.Millisecond)
	}
	if got := names(); !slices.Equal(got, want) {
		p.t.Errorf("%s handled %d signals of %d: %q", p.id, len(got), len(want), got)
	}
	if ctx.Err() != nil {
		p.t.Errorf("%s does not recover", p.id)
	}
	return ids
}

// push repeats a signal, with its id, until what became of it is known, and
// returns the id.
func (p *patient) push(ctx context.Context, c *admin.Client, s *admin.Push) (id string) {
	for ctx.Err() == nil {
		o, err := c.Push(ctx, s)
		var said *admin.OutcomeError
		switch {
		case err == nil && (o.State == admin.Acked || o.State == admin.Queued || o.State == admin.Delivered):
			return s.ID
		case err == nil, errors.As(err, &said) && said.State != admin.Unavailable && said.State != admin.Timeout:
			p.t.Errorf("%s: %s: %+v, %v", p.id, s.Name, o, err)
			return s.ID
		}
		time.Sleep(20 * time.Millisecond)
	}
	return s.ID
}

// send sends a letter to the device's echo. The connection may break; then there
// is an error, at both ends.
func (p *patient) send(ctx context.Context, c *admin.Client, data []byte) error {
	conn, err := c.Dial(ctx, p.id, "echo")
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, conn.Reset)()
	var sending sync.WaitGroup
	sending.Go(func() {
		if _, err := conn.Write(data); err == nil {
			_ = conn.CloseWrite() // the other direction says what is wrong
		}
	})
	got, err := io.ReadAll(conn)
	if err != nil {
		conn.Reset() // what was not sent does not look like an end
	}
	sending.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if !bytes.HasPrefix(data, got) || err == nil && len(got) != len(data) {
		p.t.Errorf("%s: %d bytes came back of %d (%v), the same so far: %v", p.id, len(got), len(data), err, bytes.HasPrefix(data, got))
	}
	return err
}
