package fleet

import (
	"context"
	"sync"
	"time"

	"github.com/atls-ws/atls-ws/server"
)

const (
	retryPause = time.Second
	retryMost  = 30 * time.Second
	batchSize  = 64 // signals of one fetch
	flushAfter = 64 // answers that are stored before the queue is purged
)

// link delivers a device's queue to its session. It has a goroutine only while
// there is something to deliver.
type link struct {
	f      *Fleet
	device string
	token  string
	groups []string
	sess   *server.Session

	mu       sync.Mutex
	running  bool
	rung     bool                // since the goroutine last looked
	want     uint64              // the latest bell's sequence
	sent     uint64              // the latest sequence that the session was given
	skip     map[uint64]struct{} // being taken out of the queue, which a goroutine may have read
	unacked  map[string]struct{} // ids that the device has and has not answered
	settled  bool                // what the device said in Hello has been noted
	next     uint64              // where to read on; the goroutine's
	unnumber bool                // signals go without a sequence; the goroutine's
}

// Connected is for the server's hook: the device's queue goes to its newest
// session.
func (f *Fleet) Connected(s *server.Session) { f.change(s) }

// Disconnected is for the server's hook.
func (f *Fleet) Disconnected(s *server.Session) { f.change(s) }

// change makes the link of the device what the registry says: hooks of
// different sessions of a device may come in any order.
func (f *Fleet) change(s *server.Session) {
	d := recordOf(s)
	f.known.put(d)
	t := token(d.Device)
	f.mu.Lock()
	old := f.links[t]
	now, up := f.registry.Get(d.Device)
	var l *link
	switch {
	case f.closed || !up:
		delete(f.links, t)
	case old != nil && old.sess == now:
	default:
		l = &link{f: f, device: d.Device, token: t, groups: d.Groups, sess: now}
		f.links[t] = l
	}
	f.mu.Unlock()
	if l != nil {
		l.ring(0)
	}
}

// link returns the device's link, nil when it is not connected here.
func (f *Fleet) link(device string) *link {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.links[token(device)]
}

// Online says whether the device is connected.
func (f *Fleet) Online(device string) bool { return f.link(device) != nil }

// ring tells the link that there may be something in the queue.
func (l *link) ring(seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rung = true
	l.want = max(l.want, seq)
	if l.running {
		return
	}
	l.f.mu.Lock()
	defer l.f.mu.Unlock()
	if l.f.closed {
		return
	}
	l.running = true
	l.f.delivering.Go(l.run)
}

// take says whether the signal at seq has not gone to the session yet, and if
// so keeps it from going.
func (l *link) take(seq uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if seq <= l.sent {
		return false
	}
	if l.skip == nil { // until the goroutine next ends, also one that is not begun yet
		l.skip = map[uint64]struct{}{}
	}
	l.skip[seq] = struct{}{}
	return true
}

func (l *link) sentUpTo() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sent
}

// awaits says whether the device has the signal and has not answered it.
func (l *link) awaits(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.unacked[id]
	return ok
}

// sending notes that the signal at seq goes to the session now, unless it has
// been taken.
func (l *link) sending(seq uint64, id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, taken := l.skip[seq]; taken {
		return false
	}
	l.sent = max(l.sent, seq)
	if l.unacked == nil {
		l.unacked = map[string]struct{}{}
	}
	l.unacked[id] = struct{}{}
	return true
}

func (l *link) answered(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.unacked, id)
}

// run delivers until the queue is empty and no bell has rung meanwhile.
func (l *link) run() {
	pause := retryPause
	for {
		l.mu.Lock()
		l.rung = false
		l.mu.Unlock()
		err := l.deliver(l.f.ctx)
		if l.over() {
			break
		}
		if err != nil {
			l.f.log.Debug("delivery pauses", "device", l.device, "session", l.sess.ID(), "err", err, "retry_in", pause.String())
			timer := time.NewTimer(pause)
			select {
			case <-timer.C:
			case <-l.sess.Done():
				timer.Stop()
			case <-l.f.ctx.Done():
				timer.Stop()
			}
			pause = min(2*pause, retryMost)
			continue
		}
		pause = retryPause
		l.mu.Lock()
		if !l.rung {
			l.running, l.skip, l.unacked = false, nil, nil
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
	}
	// The session is over and with it the link: nothing rings here any more, or
	// what does starts a goroutine that ends here at once.
	l.mu.Lock()
	l.running, l.unacked = false, nil
	l.mu.Unlock()
}

func (l *link) over() bool {
	select {
	case <-l.sess.Done():
		return true
	case <-l.f.ctx.Done():
		return true
	default:
		return false
	}
}

// settle notes what the device says it has handled in earlier sessions: its
// answers were lost on the way.
func (l *link) settle(ctx context.Context) error {
	if l.settled {
		return nil
	}
	l.next = 1
	if at := l.sess.Hello().Applied; at != nil && at.Queue == l.f.queue && at.Seq > 0 {
		ahead, err := l.ahead(ctx, at.Seq)
		if err != nil {
			return err
		}
		if ahead {
			// The queues are older than the device's position: they come from a
			// backup, or the device lies. It would take new signals for old ones, so
			// they go without a sequence: none is lost, one may be handled twice.
			l.f.log.Warn("device has handled more than the queues have held, its signals go without a place: if the data directory is from a backup, stop the server, remove "+highWaterFile+" from it, and start again",
				"device", l.device, "position", at.Seq)
			l.unnumber = true
		} else if err := l.settleUpTo(ctx, at.Seq); err != nil {
			return err
		} else {
			l.next = at.Seq + 1
		}
	}
	l.settled = true
	return nil
}

func (l *link) ahead(ctx context.Context, seq uint64) (bool, error) {
	if seq <= l.f.lastBell.Load() {
		return false, nil
	}
	last, err := l.f.store.lastSeq(ctx) // our bells may only be late
	return seq > last, err
}
