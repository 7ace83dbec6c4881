package client

import (
	"context"
	"net"
	"slices"
	"sync"
	"time"
)

const (
	lookEvery   = 5 * time.Second
	sleptAfter  = 10 * time.Second // between two looks, by either clock
	probeWithin = 10 * time.Second // for a sign of life of a session that is in doubt
	recently    = 30 * time.Second // what was noticed may be why a session ended
)

// notice is what happened to the machine as a whole, and what no timer and no
// read of a session tells.
//
// Timers go by the monotonic clock, and on Linux that stands still while the
// machine is suspended: a pause of five minutes that began before the night goes
// on in the morning, and a session that died meanwhile takes its three intervals
// of silence from then on to be found dead. The wall clock goes on, so when it
// has moved far more than the monotonic one, the machine slept. That the clock
// was set looks the same; what follows from it, a ping or an earlier try, does no
// harm then. A process that was stopped shows in both clocks.
//
// A network that changes shows in the addresses of the interfaces that are up
// and have a carrier. To ask for them now and then is all that the standard
// library has, and it works on every system.
type notice struct {
	wall  func() time.Time // of which only the wall clock counts
	addrs func() []string

	events chan event

	mu     sync.Mutex
	last   time.Time // of the latest look, by the monotonic clock
	lastAt time.Time // by the wall clock
	known  []string  // addresses
	latest time.Time // of the latest event
}

// event says what was noticed.
type event struct {
	slept   time.Duration // 0: it did not
	added   []string      // addresses
	removed []string
}

func newNotice() *notice {
	return &notice{wall: time.Now, addrs: addresses, events: make(chan event, 1)}
}

// run looks until ctx ends.
func (n *notice) run(ctx context.Context) {
	n.start()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			n.look()
		case <-ctx.Done():
			return
		}
	}
}

// start takes what is for what is known.
func (n *notice) start() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.last, n.lastAt, n.known = time.Now(), n.wall().Round(0), n.addrs()
}

// look compares with the look before. An event joins the one that still waits.
func (n *notice) look() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.last.IsZero() {
		return // not started
	}
	var e event
	now, at, addrs := time.Now(), n.wall().Round(0), n.addrs()
	if gap := max(now.Sub(n.last), at.Sub(n.lastAt)); gap >= sleptAfter {
		e.slept = gap
	}
	e.added, e.removed = without(addrs, n.known), without(n.known, addrs)
	n.last, n.lastAt, n.known = now, at, addrs
	if e.slept == 0 && len(e.added)+len(e.removed) == 0 {
		return
	}
	n.latest = now
	select {
	case w := <-n.events:
		e.slept += w.slept
		e.added = without(append(w.added, e.added...), e.removed)
		e.removed = without(append(w.removed, e.removed...), addrs)
	default:
	}
	n.events <- e // there is room: nobody else sends
}

// lately says whether something was noticed that may be why a session ended.
func (n *notice) lately() bool {
	n.look() // it may have happened since the latest one
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.latest.IsZero() && time.Since(n.latest) < recently
}

func without(list, other []string) (left []string) {
	for _, s := range list {
		if !slices.Contains(other, s) {
			left = append(left, s)
		}
	}
	return left
}

// addresses are those of the interfaces that are up and have a carrier. Those
// that never lead to a server do not count.
func addresses() (all []string) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil
	}
	const ready = net.FlagUp | net.FlagRunning
	for _, i := range interfaces {
		if i.Flags&ready != ready || i.Flags&net.FlagLoopback != 0 {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && !n.IP.IsLinkLocalUnicast() {
				all = append(all, n.String())
			}
		}
	}
	return all
}
