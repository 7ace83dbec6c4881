package fleet

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/atls-ws/atls-ws/internal/proto"
)

// Headers of an entry.
const (
	nodeHeader     = "Atls-Node"
	instanceHeader = "Atls-Instance"
	sessionHeader  = "Atls-Session"
	attemptHeader  = "Atls-Attempt"
	sinceHeader    = "Atls-Since"
	goneHeader     = "Atls-Gone"
)

const (
	claimSoon  = 2 * time.Second // a session that is older looks first whether a newer one is there
	goneFor    = "60s"           // an ended entry is kept, so that all hear of it
	byeTimeout = 2 * time.Second
	waitLook   = 2 * time.Second // how often who waits for a device looks by himself
)

var (
	errOutrun = errors.New("a newer session of the device is at another node")
	errLease  = errors.New("the node's lease is not renewed")
)

// entry says where a device is connected. It is written when it connects and
// when that session ends, never in between.
type entry struct {
	token    string
	epoch    uint64 // place in the stream: the newest session has the highest
	node     string
	instance string
	session  string
	attempt  string
	since    time.Time
	gone     bool
}

func parseEntry(token string, m *nats.Msg) entry {
	h := m.Header
	since, _ := time.Parse(time.RFC3339Nano, h.Get(sinceHeader))
	return entry{token: token, epoch: sequence(m), node: h.Get(nodeHeader), instance: h.Get(instanceHeader), session: h.Get(sessionHeader),
		attempt: h.Get(attemptHeader), since: since, gone: h.Get(goneHeader) != ""}
}

func (e entry) message() *nats.Msg {
	m := nats.NewMsg(presenceSubject + "." + e.token)
	for k, v := range map[string]string{nodeHeader: e.node, instanceHeader: e.instance, sessionHeader: e.session,
		attemptHeader: e.attempt, sinceHeader: e.since.UTC().Format(time.RFC3339Nano)} {
		if v != "" {
			m.Header.Set(k, v)
		}
	}
	if e.gone {
		m.Header.Set(goneHeader, "true")
		m.Header.Set(jetstream.MsgTTLHeader, goneFor)
	}
	return m
}

// Place is where a device is connected.
type Place struct {
	Device  string
	Node    string
	Address string // of the node
	Session string
	Since   time.Time
}

// Node is this node's name; empty when it is alone.
func (f *Fleet) Node() string {
	if f.nodes == nil {
		return ""
	}
	return f.nodes.self.Node
}

// Peers are the addresses of the other nodes that live, by name.
func (f *Fleet) Peers() map[string]string {
	peers := map[string]string{}
	if f.nodes != nil {
		for _, l := range f.nodes.live() {
			if l.Node != f.nodes.self.Node {
				peers[l.Node] = l.Address
			}
		}
	}
	return peers
}

// Locate says at which other node a device is connected; nil: at none.
func (f *Fleet) Locate(ctx context.Context, device string) (*Place, error) {
	if f.nodes == nil {
		return nil, nil
	}
	m, err := f.store.last(ctx, presenceStream, presenceSubject+"."+token(device))
	if m == nil || err != nil {
		return nil, err
	}
	return f.place(parseEntry(token(device), m)), nil
}

func (f *Fleet) place(e entry) *Place {
	address, ok := f.nodes.holds(e)
	if !ok || e.gone || f.nodes.ours(e) {
		return nil
	}
	return &Place{Device: name(e.token), Node: e.node, Address: address, Session: e.session, Since: e.since}
}

// Elsewhere calls fn for each device that is connected at another node.
func (f *Fleet) Elsewhere(ctx context.Context, fn func(Place)) error {
	if f.nodes == nil {
		return nil
	}
	return f.nodes.walk(ctx, func(e entry) {
		if p := f.place(e); p != nil {
			fn(*p)
		}
	})
}

func (n *nodes) walk(ctx context.Context, fn func(entry)) error {
	return n.f.store.walk(ctx, presenceStream, presenceSubject+".*", 1, func(m *nats.Msg) bool {
		fn(parseEntry(m.Subject[len(presenceSubject)+1:], m))
		return true
	})
}

// Wait returns when the device is connected at any node, or ctx ends.
func (f *Fleet) Wait(ctx context.Context, device string) error {
	f.mu.Lock()
	registry := f.registry
	f.mu.Unlock()
	if f.nodes == nil {
		_, err := registry.Wait(ctx, device)
		return err
	}
	sub, err := f.store.nc.SubscribeSync(hereSubject + "." + token(device))
	if err != nil {
		return f.store.unavailable(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	for {
		if _, ok := registry.Get(device); ok {
			return nil
		}
		if p, err := f.Locate(ctx, device); err == nil && p != nil {
			return nil
		}
		look, cancel := context.WithTimeout(ctx, waitLook)
		_, _ = sub.NextMsgWithContext(look) // whatever ends it, look again
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// enter makes sure that the link may deliver: its session is the device's
// newest at any node as far as is known, and the node's lease holds.
func (l *link) enter(ctx context.Context) error {
	n := l.f.nodes
	if n == nil {
		return nil
	}
	l.mu.Lock()
	claimed := l.epoch != 0
	l.mu.Unlock()
	if !claimed {
		if err := n.claim(ctx, l); err != nil {
			return err
		}
	}
	return l.fence()
}

// fence is asked before anything is done to the device or its queue.
func (l *link) fence() error {
	switch n := l.f.nodes; {
	case n == nil:
		return nil
	case l.stale.Load():
		return errOutrun
	case !n.fresh():
		return errLease
	}
	return nil
}

// claim writes where the device is. The write's place in the stream is the
// session's epoch.
func (n *nodes) claim(ctx context.Context, l *link) error {
	select {
	case n.f.fetching <- struct{}{}:
		defer func() { <-n.f.fetching }()
	case <-ctx.Done():
		return ctx.Err()
	case <-l.sess.Done():
		return l.sess.Err()
	}
	e := entry{token: l.token, node: n.self.Node, instance: n.self.Instance, session: l.sess.ID(), attempt: l.sess.Hello().Attempt, since: l.sess.Opened()}
	if time.Since(l.sess.Opened()) > claimSoon {
		// NATS was away: the device may be elsewhere by now, and this session dead.
		m, err := n.f.store.last(ctx, presenceStream, presenceSubject+"."+l.token)
		if err != nil {
			return err
		}
		if m != nil {
			if now := parseEntry(l.token, m); !now.gone && !n.ours(now) && now.since.After(e.since) {
				if _, ok := n.holds(now); ok {
					l.outrun(now)
					return errOutrun
				}
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	ack, err := n.f.store.js.PublishMsg(ctx, e.message())
	if err != nil {
		return n.f.store.unavailable(err)
	}
	l.mu.Lock()
	l.epoch = ack.Sequence
	rival := l.rival
	l.mu.Unlock()
	if rival.epoch > ack.Sequence {
		l.outrun(rival)
		return errOutrun
	}
	if l.current() {
		return nil
	}
	n.end(l) // the session has ended meanwhile
	return errOutrun
}

// current says whether l is still the device's link.
func (l *link) current() bool {
	l.f.mu.Lock()
	defer l.f.mu.Unlock()
	return l.f.links[l.token] == l
}

// onHere hears of an entry that was written.
func (n *nodes) onHere(m *nats.Msg) {
	e := parseEntry(m.Subject[len(hereSubject)+1:], m)
	n.mu.Lock()
	gap := n.lastHere != 0 && e.epoch > n.lastHere+1
	n.lastHere = max(n.lastHere, e.epoch)
	n.mu.Unlock()
	if gap {
		n.doubt()
	}
	n.compare(e)
}

// compare looks at what an entry says of a device that is connected here.
func (n *nodes) compare(e entry) {
	n.f.mu.Lock()
	l := n.f.links[e.token]
	n.f.mu.Unlock()
	if l == nil || e.session == l.sess.ID() && !e.gone {
		return
	}
	l.mu.Lock()
	epoch := l.epoch
	switch {
	case e.gone || n.ours(e):
		// What was newer is gone: an alternative of the same attempt, or another
		// session here, of which the registry has decided.
		again := epoch != 0 && (e.epoch > epoch || l.stale.Load())
		if again {
			l.epoch, l.rival = 0, entry{}
			l.stale.Store(false)
		}
		l.mu.Unlock()
		if again {
			l.ring(l.f.lastBell.Load())
		}
		return
	case e.epoch > l.rival.epoch:
		l.rival = e
	}
	l.mu.Unlock()
	if epoch != 0 && e.epoch > epoch {
		l.outrun(e)
	}
}

// outrun ends the delivery to a session that is not the device's newest, and
// the session: unless the newer one is an alternative of the same attempt, of
// which the device keeps the one it uses.
func (l *link) outrun(by entry) {
	if l.stale.Swap(true) {
		return
	}
	attempt := l.sess.Hello().Attempt
	l.f.log.Info("newer session of the device at another node", "device", l.device, "session", l.sess.ID(), "node", by.node, "new", by.session)
	if attempt != "" && attempt == by.attempt {
		return
	}
	l.f.mu.Lock()
	defer l.f.mu.Unlock()
	if l.f.closed {
		return
	}
	l.f.delivering.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), byeTimeout)
		defer cancel()
		_ = l.sess.CloseBye(ctx, proto.Replaced, "a newer session of this device took over at another node")
	})
}

// verify compares all entries with the links: the newer sessions of which this
// node has not heard, and entries of its own that nothing stands behind.
func (n *nodes) verify(ctx context.Context) error {
	found := map[string]bool{}
	err := n.walk(ctx, func(e entry) {
		n.f.mu.Lock()
		l := n.f.links[e.token]
		n.f.mu.Unlock()
		switch {
		case l != nil:
			found[e.token] = true
			n.compare(e)
		case n.ours(e) && !e.gone:
			n.endEntry(e)
		}
	})
	if err != nil {
		return err
	}
	n.f.mu.Lock()
	var lost []*link
	for t, l := range n.f.links {
		if !found[t] {
			lost = append(lost, l)
		}
	}
	n.f.mu.Unlock()
	for _, l := range lost { // their entries were not stored after all
		l.mu.Lock()
		l.epoch, l.rival = 0, entry{}
		l.stale.Store(false)
		l.mu.Unlock()
		l.ring(l.f.lastBell.Load())
	}
	return nil
}

// end ends the entry of a link whose session is over.
func (n *nodes) end(l *link) {
	l.mu.Lock()
	epoch := l.epoch
	l.mu.Unlock()
	if epoch != 0 {
		n.endEntry(entry{token: l.token, epoch: epoch, node: n.self.Node, instance: n.self.Instance, session: l.sess.ID(), attempt: l.sess.Hello().Attempt, since: l.sess.Opened()})
	}
}

func (n *nodes) endEntry(e entry) {
	n.mu.Lock()
	n.gone[e.token] = e
	n.mu.Unlock()
	select {
	case n.tidy <- struct{}{}:
	default:
	}
}

// endEntries stores the ends, many at a time.
func (n *nodes) endEntries() {
	for {
		select {
		case <-n.tidy:
		case <-n.f.ctx.Done():
			return
		}
		for !n.flushEntries(n.f.ctx) {
			timer := time.NewTimer(retryPause)
			select {
			case <-timer.C:
			case <-n.f.ctx.Done():
				timer.Stop()
				return
			}
		}
	}
}

// flushEntries says whether nothing is left. An entry that a newer session has
// replaced stays: it is that one's.
func (n *nodes) flushEntries(ctx context.Context) bool {
	n.mu.Lock()
	all := n.gone
	n.gone = map[string]entry{}
	n.mu.Unlock()
	acks := map[string]jetstream.PubAckFuture{}
	ok := true
	again := func(e entry) {
		ok = false
		n.mu.Lock()
		defer n.mu.Unlock()
		if _, newer := n.gone[e.token]; !newer {
			n.gone[e.token] = e
		}
	}
	for t, e := range all {
		gone := e
		gone.gone = true
		ack, err := n.f.store.js.PublishMsgAsync(gone.message(), jetstream.WithExpectLastSequencePerSubject(e.epoch))
		if err != nil {
			again(e)
			continue
		}
		acks[t] = ack
	}
	for t, ack := range acks {
		select {
		case <-ack.Ok():
		case err := <-ack.Err():
			if api := (*jetstream.APIError)(nil); !errors.As(err, &api) || api.ErrorCode != jetstream.JSErrCodeStreamWrongLastSequence {
				again(all[t])
			}
		case <-ctx.Done():
			again(all[t])
		}
	}
	return ok
}
