package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/atls-ws/atls-ws/internal/daemon/admin"
)

const (
	denialCheck = 5 * time.Second // how soon a denial is noticed whose bell was missed
	denialBytes = 64 << 20
)

// denials are the devices that operators have denied, as far as this node has
// heard: all that there were at the start, and others within seconds.
type denials struct {
	f    *Fleet
	wake chan struct{}

	mu      sync.Mutex
	all     map[string]denial // by device; of those allowed again too
	last    uint64            // of the stream, read so far
	changed func()
}

type denial struct {
	seq    uint64
	denied bool
	admin.Denial
}

// denialRecord is what the stream has of a device.
type denialRecord struct {
	admin.Denial
	Allowed bool `json:"allowed,omitempty"` // again
}

// openDenials reads who is denied: without knowing it, no device may come.
func openDenials(ctx context.Context, f *Fleet) (*denials, error) {
	ctx, cancel := context.WithTimeout(ctx, leaderTimeout)
	defer cancel()
	d := &denials{f: f, wake: make(chan struct{}, 1), all: map[string]denial{}}
	sub, err := f.store.nc.Subscribe(deniedSubject+".*", func(*nats.Msg) {
		select {
		case d.wake <- struct{}{}:
		default:
		}
	})
	if err != nil {
		return nil, fmt.Errorf("fleet: %w", err)
	}
	for {
		if err = d.catchUp(ctx); err == nil {
			break
		}
		timer := time.NewTimer(retryPause) // a stream that was just made may have no leader yet
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			_ = sub.Unsubscribe()
			return nil, err
		}
	}
	f.wg.Go(func() {
		defer func() { _ = sub.Unsubscribe() }()
		d.watch()
	})
	return d, nil
}

func (d *denials) watch() {
	tick := time.NewTicker(denialCheck)
	defer tick.Stop()
	for {
		select {
		case <-d.wake:
		case <-tick.C:
		case <-d.f.ctx.Done():
			return
		}
		if err := d.catchUp(d.f.ctx); err != nil && d.f.ctx.Err() == nil {
			d.f.log.Debug("denials are not read", "err", err)
		}
	}
}

// catchUp reads what is new.
func (d *denials) catchUp(ctx context.Context) error {
	d.mu.Lock()
	from := d.last + 1
	d.mu.Unlock()
	changed := false
	err := d.f.store.walk(ctx, denialStream, denySubject+".*", from, func(m *nats.Msg) bool {
		var r denialRecord
		if err := json.Unmarshal(m.Data, &r); err != nil {
			// Whatever it was, the device stays out.
			r.Denial = admin.Denial{Device: name(m.Subject[len(denySubject)+1:]), Reason: "its entry cannot be read"}
		}
		changed = d.note(sequence(m), &r) || changed
		d.mu.Lock()
		d.last = max(d.last, sequence(m))
		d.mu.Unlock()
		return true
	})
	if changed {
		d.tell()
	}
	return err
}

// note says whether it was news that the device is denied.
func (d *denials) note(seq uint64, r *denialRecord) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	was := d.all[r.Device]
	if was.seq >= seq {
		return false
	}
	d.all[r.Device] = denial{seq: seq, denied: !r.Allowed, Denial: r.Denial}
	return !r.Allowed && !was.denied
}

func (d *denials) tell() {
	d.mu.Lock()
	fn := d.changed
	d.mu.Unlock()
	if fn != nil {
		fn()
	}
}

// OnDenied has fn called after a device was denied, here or at another node.
func (f *Fleet) OnDenied(fn func()) {
	f.denied.mu.Lock()
	defer f.denied.mu.Unlock()
	f.denied.changed = fn
}

// Denied says whether the device is denied, and why. It asks nobody.
func (f *Fleet) Denied(device string) (admin.Denial, bool) {
	f.denied.mu.Lock()
	defer f.denied.mu.Unlock()
	d := f.denied.all[device]
	return d.Denial, d.denied
}

// Denials are the devices that are denied, by name.
func (f *Fleet) Denials() []admin.Denial {
	f.denied.mu.Lock()
	defer f.denied.mu.Unlock()
	all := []admin.Denial{}
	for _, device := range slices.Sorted(maps.Keys(f.denied.all)) {
		if d := f.denied.all[device]; d.denied {
			all = append(all, d.Denial)
		}
	}
	return all
}

// Deny keeps a device away, at every node. It is stored and in force here when
// Deny returns.
func (f *Fleet) Deny(ctx context.Context, d admin.Denial) error {
	if err := CheckDevice(d.Device); err != nil {
		return err
	}
	return f.storeDenial(ctx, &denialRecord{Denial: d})
}

// Allow is the opposite of Deny. The error is ErrNotDenied when it was not.
func (f *Fleet) Allow(ctx context.Context, device string) error {
	if err := f.denied.catchUp(ctx); err != nil {
		return err
	}
	d, denied := f.Denied(device)
	if !denied {
		return ErrNotDenied
	}
	return f.storeDenial(ctx, &denialRecord{Denial: d, Allowed: true})
}

// ErrNotDenied says that there is nothing to take back.
var ErrNotDenied = errors.New("the device is not denied")

func (f *Fleet) storeDenial(ctx context.Context, r *denialRecord) error {
	m := nats.NewMsg(denySubject + "." + token(r.Device))
	m.Data, _ = json.Marshal(r) // of strings and a time
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	ack, err := f.store.js.PublishMsg(ctx, m)
	if isFull(err, "bytes") {
		return &UnavailableError{fmt.Errorf("the list of denied devices is full: %d MiB", denialBytes>>20), "deny with patterns, under deny in the server's configuration"}
	} else if err != nil {
		return f.store.unavailable(err)
	}
	if f.denied.note(ack.Sequence, r) {
		f.denied.tell()
	}
	return nil
}
