package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// askTime bounds a question to another node.
const askTime = 3 * time.Second

// snapshotFrom is from how many devices on all entries are read at once.
const snapshotFrom = 64

// question is what a node asks the one that holds a device; or all of them, of
// a signal.
type question struct {
	Device string `json:"device,omitempty"`
	Seq    uint64 `json:"seq,omitempty"` // to be kept from going to the session
	Signal string `json:"signal,omitempty"`
}

type reply struct {
	Here    bool     `json:"here"`
	Sent    uint64   `json:"sent"`              // how far the queue has gone to the session
	Taken   bool     `json:"taken"`             // Seq does not go
	Unacked []string `json:"unacked,omitempty"` // Device's signals, or Signal's devices
}

// onAsk answers another node.
func (n *nodes) onAsk(m *nats.Msg) {
	var q question
	if json.Unmarshal(m.Data, &q) != nil {
		return
	}
	var r reply
	if q.Device != "" {
		if l := n.f.link(q.Device); l != nil {
			r.Here, r.Sent = true, l.sentUpTo()
			if q.Seq != 0 {
				r.Taken = l.take(q.Seq)
			} else {
				r.Unacked = l.unanswered()
			}
		}
	} else {
		n.f.mu.Lock()
		all := make([]*link, 0, len(n.f.links))
		for _, l := range n.f.links {
			all = append(all, l)
		}
		n.f.mu.Unlock()
		for _, l := range all {
			if l.awaits(q.Signal) {
				r.Unacked = append(r.Unacked, l.device)
			}
		}
	}
	data, _ := json.Marshal(r) // of strings and numbers
	_ = m.Respond(data)        // who asked hears nothing, and says so
}

func (l *link) unanswered() (ids []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id := range l.unacked {
		ids = append(ids, id)
	}
	return ids
}

func (n *nodes) ask(ctx context.Context, node string, q question) (r reply, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	data, _ := json.Marshal(q)
	m, err := n.f.store.nc.RequestWithContext(ctx, askSubject+"."+node, data)
	if err == nil {
		err = json.Unmarshal(m.Data, &r)
	}
	if err != nil {
		return r, &UnavailableError{fmt.Errorf("the node %s, which holds the device, does not answer: %w", node, err),
			"try again: if it is dead, its devices are free within " + leaseTime.String()}
	}
	return r, nil
}

// holder asks about a device at whatever node it is; ok is false when it is at none.
func (f *Fleet) holder(ctx context.Context, device string, seq uint64) (r reply, ok bool, err error) {
	if l := f.link(device); l != nil {
		r = reply{Here: true, Sent: l.sentUpTo()}
		if seq != 0 {
			r.Taken = l.take(seq)
		}
		return r, true, nil
	}
	p, err := f.Locate(ctx, device)
	if p == nil || err != nil {
		return r, false, err
	}
	r, err = f.nodes.ask(ctx, p.Node, question{Device: device, Seq: seq})
	return r, r.Here, err
}

// others is what other nodes know of a signal's devices; nil when there are none.
type others struct {
	online  map[string]bool
	unacked map[string]bool
}

// elsewhere asks the other nodes about a signal to so many devices.
func (f *Fleet) elsewhere(ctx context.Context, signal string, devices []string) (*others, error) {
	if f.nodes == nil {
		return nil, nil
	}
	o := &others{online: map[string]bool{}, unacked: map[string]bool{}}
	if len(devices) >= snapshotFrom {
		if err := f.Elsewhere(ctx, func(p Place) { o.online[p.Device] = true }); err != nil {
			return nil, err
		}
	} else {
		for _, d := range devices {
			p, err := f.Locate(ctx, d)
			if err != nil {
				return nil, err
			}
			o.online[d] = p != nil
		}
	}
	for node := range f.Peers() {
		r, err := f.nodes.ask(ctx, node, question{Signal: signal})
		if err != nil {
			f.log.Debug("a node does not say which signals are under way", "node", node, "err", err)
			continue // what it has reads as queued
		}
		for _, d := range r.Unacked {
			o.unacked[d] = true
		}
	}
	return o, nil
}

func (o *others) has(device string) bool    { return o != nil && o.online[device] }
func (o *others) awaits(device string) bool { return o != nil && o.unacked[device] }
