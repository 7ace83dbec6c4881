package fleet

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Node is one of several daemons that share NATS.
type Node struct {
	Name    string // one token of a subject
	Address string // host:port at which the others reach it
	TLS     *tls.Config
}

const (
	leaseTime  = 15 * time.Second // without a renewal: the node is gone, and its devices with it
	leaseFresh = 12 * time.Second // after so long without one of its own a node stops to deliver
	renewEvery = 3 * time.Second
	renewTime  = 3 * time.Second // for one renewal
)

// lease is what a node renews: one message of its own, however many devices it
// has.
type lease struct {
	Node     string `json:"node"`
	Instance string `json:"instance"` // of the process
	Address  string `json:"address"`
	Gone     bool   `json:"gone,omitempty"`
}

// nodes is this node's place among the others. The zero Fleet has none.
type nodes struct {
	f    *Fleet
	self lease

	wake chan struct{}
	tidy chan struct{}

	mu       sync.Mutex
	seen     map[string]heard // by name
	beat     time.Time        // of the last renewal that is known to have been stored
	doubted  bool             // something may have been missed: look at all entries
	lastHere uint64
	gone     map[string]entry // by token: entries to be ended
}

type heard struct {
	lease
	at time.Time
}

func newNodes(f *Fleet, n *Node) *nodes {
	if n == nil {
		return nil
	}
	return &nodes{f: f, self: lease{Node: n.Name, Instance: rand.Text(), Address: n.Address},
		wake: make(chan struct{}, 1), tidy: make(chan struct{}, 1), seen: map[string]heard{}, gone: map[string]entry{}}
}

// join takes the lease and begins to hear of the others.
func (n *nodes) join(ctx context.Context) error {
	nc := n.f.store.nc
	var subs []*nats.Subscription
	for subject, fn := range map[string]nats.MsgHandler{
		aliveSubject + ".*":            n.onAlive,
		hereSubject + ".*":             n.onHere,
		askSubject + "." + n.self.Node: n.onAsk,
	} {
		s, err := nc.Subscribe(subject, fn)
		if err != nil {
			return fmt.Errorf("fleet: %w", err)
		}
		subs = append(subs, s)
	}
	if err := n.takeLease(ctx); err != nil {
		return err
	}
	var last uint64
	err := n.f.store.settled(ctx, func(ctx context.Context) (err error) {
		last, err = n.f.store.lastOf(ctx, presenceStream)
		return err
	})
	if err != nil {
		return err
	}
	n.mu.Lock()
	if n.lastHere == 0 {
		n.lastHere = last
	}
	n.mu.Unlock()
	n.f.log.Info("node of a cluster", "node", n.self.Node, "address", n.self.Address, "others", len(n.live())-1)
	n.f.wg.Go(func() {
		defer func() {
			for _, s := range subs {
				_ = s.Unsubscribe()
			}
		}()
		n.run(last)
	})
	n.f.wg.Go(n.endEntries)
	return nil
}

// takeLease makes sure that no other node has this one's name: the lease of a
// process that was killed is not renewed.
func (n *nodes) takeLease(ctx context.Context) error {
	before := map[string]bool{}
	err := n.f.store.settled(ctx, func(ctx context.Context) error {
		return n.f.store.walk(ctx, nodeStream, nodeSubject+".*", 1, func(m *nats.Msg) bool {
			var l lease
			if json.Unmarshal(m.Data, &l) == nil && !l.Gone {
				n.hear(l)
				before[l.Node] = true
			}
			return true
		})
	})
	if err != nil {
		return err
	}
	if before[n.self.Node] {
		n.mu.Lock()
		old := n.seen[n.self.Node]
		n.mu.Unlock()
		timer := time.NewTimer(renewEvery + time.Second)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		n.mu.Lock()
		again := n.seen[n.self.Node]
		n.mu.Unlock()
		if again.at.After(old.at) && !again.Gone {
			return &StartError{fmt.Errorf("another node with the name %s runs, at %s", again.Node, again.Address), "give this one another name with --node"}
		}
	}
	return n.f.store.settled(ctx, func(context.Context) error { return n.renew() })
}

func (n *nodes) onAlive(m *nats.Msg) {
	var l lease
	if json.Unmarshal(m.Data, &l) == nil {
		n.hear(l)
	}
}

func (n *nodes) hear(l lease) {
	if l.Node == n.self.Node && l.Instance == n.self.Instance {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	_, known := n.seen[l.Node]
	switch {
	case l.Gone && known && n.seen[l.Node].Instance == l.Instance:
		delete(n.seen, l.Node)
		n.f.log.Info("a node has left", "node", l.Node)
	case !l.Gone:
		n.seen[l.Node] = heard{l, time.Now()}
		if !known {
			n.f.log.Info("a node is there", "node", l.Node, "address", l.Address)
		}
	}
}

// live are the nodes whose leases hold, this one among them, by name.
func (n *nodes) live() []lease {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := []lease{n.self}
	for name, h := range n.seen {
		switch {
		case time.Since(h.at) < leaseTime:
			if name != n.self.Node {
				all = append(all, h.lease)
			}
		default:
			delete(n.seen, name)
			n.f.log.Warn("a node's lease has ended", "node", name)
		}
	}
	slices.SortFunc(all, func(a, b lease) int {
		if a.Node < b.Node {
			return -1
		}
		return 1
	})
	return all
}

// holds says whether the process that made an entry still has its lease.
func (n *nodes) holds(e entry) (address string, ok bool) {
	if n.ours(e) {
		return n.self.Address, true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	h, ok := n.seen[e.node]
	return h.Address, ok && h.Instance == e.instance && time.Since(h.at) < leaseTime
}

func (n *nodes) ours(e entry) bool { return e.node == n.self.Node && e.instance == n.self.Instance }

// fresh says whether this node's own lease holds beyond doubt. A process that
// was stopped, or cut off, finds that it does not.
func (n *nodes) fresh() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return time.Since(n.beat) < leaseFresh
}

// doubt has all entries looked at: something of them may have been missed.
func (n *nodes) doubt() {
	if n == nil {
		return
	}
	n.mu.Lock()
	n.doubted = true
	n.mu.Unlock()
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// run renews the lease until the fleet ends.
func (n *nodes) run(before uint64) {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	failed := false
	for {
		select {
		case <-n.f.ctx.Done():
			return
		case <-tick.C:
		case <-n.wake:
		}
		if last, err := n.f.store.lastOf(n.f.ctx, presenceStream); err == nil {
			n.mu.Lock()
			if n.lastHere < before { // what was stored before the last look has been heard by now
				n.lastHere, n.doubted = before, true
			}
			n.mu.Unlock()
			before = last
		}
		switch err := n.renew(); {
		case err == nil && failed:
			n.f.log.Info("the node's lease is renewed again")
			n.f.missed()
			failed = false
		case err != nil && !failed && n.f.ctx.Err() == nil:
			n.f.log.Warn("the node's lease is not renewed: without it, signals wait", "err", err)
			failed = true
		}
		n.live() // says whose lease has ended
	}
}

// renew stores the lease. After a pause in which others may have taken over
// devices, it looks for those first: until then nothing is delivered.
func (n *nodes) renew() error {
	began := time.Now()
	if err := n.say(n.f.ctx, n.self); err != nil {
		return err
	}
	n.mu.Lock()
	look := n.doubted || !n.beat.IsZero() && time.Since(n.beat) >= leaseFresh
	n.doubted = false
	n.mu.Unlock()
	if look {
		if err := n.verify(n.f.ctx); err != nil {
			n.mu.Lock()
			n.doubted = true
			n.mu.Unlock()
			return err
		}
	}
	n.mu.Lock()
	n.beat = began
	n.mu.Unlock()
	return nil
}

func (n *nodes) say(ctx context.Context, l lease) error {
	ctx, cancel := context.WithTimeout(ctx, renewTime)
	defer cancel()
	m := nats.NewMsg(nodeSubject + "." + l.Node)
	m.Data, _ = json.Marshal(l) // of strings
	_, err := n.f.store.js.PublishMsg(ctx, m)
	return err
}

// leave ends what is left of this node's entries, and its lease.
func (n *nodes) leave(ctx context.Context) {
	n.flushEntries(ctx)
	gone := n.self
	gone.Gone = true
	_ = n.say(ctx, gone) // else it ends by itself
}

// presenceStreams are the streams of a fleet with several nodes.
func presenceStreams(base func(name, subjects string, age time.Duration, bytes int64) jetstream.StreamConfig) []jetstream.StreamConfig {
	leases := base(nodeStream, nodeSubject+".*", leaseTime, 1<<20)
	leases.Description, leases.MaxMsgsPerSubject, leases.Storage = "leases of nodes", 1, jetstream.MemoryStorage
	leases.RePublish = &jetstream.RePublish{Source: nodeSubject + ".*", Destination: aliveSubject + ".{{wildcard(1)}}"}
	presence := base(presenceStream, presenceSubject+".*", 0, recordBytes)
	presence.Description, presence.MaxMsgsPerSubject, presence.AllowMsgTTL = "where devices are connected", 1, true
	presence.RePublish = &jetstream.RePublish{Source: presenceSubject + ".*", Destination: hereSubject + ".{{wildcard(1)}}", HeadersOnly: true}
	return []jetstream.StreamConfig{leases, presence}
}
