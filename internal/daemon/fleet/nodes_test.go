package fleet

import (
	"context"
	"crypto/tls"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/pki"
)

// twoNodes are two fleets that share a NATS server and trust the same devices.
func twoNodes(t *testing.T) (a, b *site) {
	t.Helper()
	a = newSite(t, true)
	a.cfg.Node = &Node{Name: "a", Address: "127.0.0.1:1"}
	other := *a
	b = &other
	b.cfg.Node = &Node{Name: "b", Address: "127.0.0.1:2"}
	return a.start(), b.start()
}

// at waits until the fleet says that the device is at a node; empty: at none else.
func (s *site) at(device, node string) {
	s.t.Helper()
	eventually(s.t, func() bool {
		p, err := s.f.Locate(s.t.Context(), device)
		return err == nil && (p == nil && node == "" || p != nil && p.Node == node)
	})
}

func TestSignalFromAnotherNodeIsDeliveredAndItsOutcomeSeen(t *testing.T) {
	a, b := twoNodes(t)
	d := a.device("pump-7")
	a.connect(d)
	b.at(d.id, "a")
	if !b.f.Online(d.id) {
		t.Error("the device is not online at the other node")
	}
	id := b.to(d.id, "x")
	eventually(t, func() bool { return b.outcome(id).State == admin.Acked })
	if got := d.seen(); len(got) != 1 || got[0] != "x" {
		t.Errorf("%q", got)
	}
	a.disconnect(d)
	b.at(d.id, "")
	if o := b.outcome(b.to(d.id, "y")); o.State != admin.Queued || o.Text != admin.OfflineText {
		t.Errorf("%+v", o)
	}
}

func TestNewestSessionWinsAcrossNodes(t *testing.T) {
	a, b := twoNodes(t)
	d := a.device("pump-7")
	a.connect(d)
	old := d.sess
	a.to(d.id, "1")
	eventually(t, func() bool { return len(d.seen()) == 1 })
	b.connect(d)
	<-old.Done()
	if !errors.Is(old.Err(), client.ErrReplaced) {
		t.Errorf("the old session ended with %v", old.Err())
	}
	a.at(d.id, "b")
	eventually(t, func() bool { return a.f.link(d.id) == nil })
	a.at(d.id, "b") // what the old session leaves does not end the new one's entry
	id := a.to(d.id, "2")
	eventually(t, func() bool { return a.outcome(id).State == admin.Acked })
	if got := d.seen(); len(got) != 2 {
		t.Errorf("%q", got)
	}
}

// A device that tries two carriers may reach two nodes; it keeps the one it uses.
func TestSessionsOfOneAttemptAtTwoNodesAreAlternatives(t *testing.T) {
	a, b := twoNodes(t)
	d := a.device("pump-7")
	a.connect(d)
	first, l := d.sess, a.f.link(d.id)
	eventually(t, func() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.epoch != 0 })
	l.mu.Lock()
	newer := entry{token: "pump-7", epoch: l.epoch + 1, node: "b", instance: b.f.nodes.self.Instance, session: "x", attempt: first.Hello().Attempt, since: time.Now()}
	l.mu.Unlock()
	must[*jetstream.PubAck](t)(a.f.store.js.PublishMsg(t.Context(), newer.message()))
	eventually(t, l.stale.Load)
	if first.Err() != nil {
		t.Errorf("the alternative was ended: %v", first.Err())
	}
	b.f.nodes.endEntry(newer) // the device ends the newer one
	eventually(t, func() bool { return !l.stale.Load() })
	b.at(d.id, "a")
	id := b.to(d.id, "x")
	eventually(t, func() bool { return b.outcome(id).State == admin.Acked })
}

func TestDevicesOfADeadNodeDoNotCount(t *testing.T) {
	t.Parallel()
	a, b := twoNodes(t)
	d := a.device("pump-7")
	a.connect(d)
	b.at(d.id, "a")
	eventually(t, func() bool { return len(b.f.Peers()) == 1 })
	n := b.f.nodes
	n.mu.Lock() // nothing is heard of a until its next renewal
	h := n.seen["a"]
	h.at = time.Now().Add(-leaseTime)
	n.seen["a"] = h
	n.mu.Unlock()
	if p, err := b.f.Locate(t.Context(), d.id); p != nil || err != nil {
		t.Errorf("%+v, %v", p, err)
	}
	b.at(d.id, "a") // it lives after all
}

func TestNodeWithoutALeaseDeliversNothing(t *testing.T) {
	a, b := twoNodes(t)
	d := a.device("pump-7")
	a.connect(d)
	a.to(d.id, "1")
	eventually(t, func() bool { return len(d.seen()) == 1 })
	n := a.f.nodes
	n.mu.Lock()
	n.beat = time.Now().Add(-leaseFresh)
	n.mu.Unlock()
	l := a.f.link(d.id)
	if err := l.fence(); !errors.Is(err, errLease) {
		t.Errorf("%v", err)
	}
	// It finds that the device is elsewhere before it delivers again.
	l.mu.Lock()
	e := entry{token: "pump-7", epoch: l.epoch + 1, node: "b", instance: b.f.nodes.self.Instance, session: "x", attempt: "other", since: time.Now()}
	l.mu.Unlock()
	must[*jetstream.PubAck](t)(a.f.store.js.PublishMsg(t.Context(), e.message()))
	<-d.sess.Done()
	b.to(d.id, "2")
	if got := d.seen(); len(got) != 1 {
		t.Errorf("%q was delivered", got)
	}
}

func TestCancelAsksTheNodeThatHasTheDevice(t *testing.T) {
	a, b := twoNodes(t)
	d := a.device("pump-7")
	hold := make(chan struct{})
	d.cfg.Mux.OnSignal(client.AnySignal, func(context.Context, client.Signal) (string, error) { <-hold; return "", nil })
	a.connect(d)
	b.at(d.id, "a")
	id := b.to(d.id, "x")
	eventually(t, func() bool { return b.outcome(id).State == admin.Delivered })
	q := must[[]admin.QueuedSignal](t)(b.f.Waiting(t.Context(), d.id))
	if len(q) != 1 || q[0].State != admin.Delivered {
		t.Errorf("%+v", q)
	}
	all := must[[]admin.Outcome](t)(b.f.Cancel(t.Context(), id, ""))
	if len(all) != 1 || all[0].State != admin.Delivered {
		t.Errorf("%+v: it is at the device", all)
	}
	close(hold)
	eventually(t, func() bool { return b.outcome(id).State == admin.Acked })
}

func TestSecondNodeOfANameIsRefused(t *testing.T) {
	t.Parallel()
	a, _ := twoNodes(t)
	_, err := Open(t.Context(), a.cfg)
	var start *StartError
	if !errors.As(err, &start) || !strings.Contains(err.Error(), "another node with the name a") {
		t.Errorf("%v", err)
	}
}

func TestEmbeddedClusterAloneSaysWhatItWaitsFor(t *testing.T) {
	t.Parallel()
	s := newSite(t, false)
	pair := must[*pki.Pair](t)(s.ca.Node("a", 0))
	s.cfg.Node = &Node{Name: "a", TLS: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{must[tls.Certificate](t)(pair.TLS())}, RootCAs: s.ca.Pool(), ClientCAs: s.ca.Pool(), ServerName: pki.NodeServerName}}
	s.cfg.Dir = filepath.Join(t.TempDir(), "d")
	s.cfg.NATS.Cluster = NATSCluster{Name: "x", Listen: "127.0.0.1:0", Routes: []string{"nats://127.0.0.1:1"}}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	_, err := Open(ctx, s.cfg)
	var start *StartError
	if !errors.As(err, &start) || !strings.Contains(start.Next(), "more than half of the cluster's nodes") {
		t.Errorf("%v", err)
	}
}
