// Package events keeps the latest events of a server and hands them to
// operators who read along. Its memory is bounded: readers have a place in one
// ring, and no queues of their own.
package events

import (
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/atls-ws/atls-ws/internal/daemon/admin"
)

const (
	batch      = 64
	maxReaders = 64
	maxText    = 1 << 10
)

// Why there are no events to read.
var (
	ErrClosed = errors.New("the server stops")
	ErrBusy   = errors.New("there are too many readers of events")
	ErrSlow   = errors.New("the reader is too slow")
)

// Log is the latest events. Its methods may be called from any goroutine.
type Log struct {
	epoch string // tells ids of this log from those of one before

	mu      sync.Mutex
	ring    []admin.Event
	n       uint64        // events so far; the latest is the nth
	changed chan struct{} // closed by the next event; nil: nobody waits
	readers int
	closed  bool
	left    sync.Cond // a reader has
}

// New makes a log of the latest size events. The caller closes it.
func New(size int) *Log {
	l := &Log{epoch: rand.Text()[:10], ring: make([]admin.Event, size)}
	l.left.L = &l.mu
	return l
}

// Add appends an event. It gives it an id, and the time when it has none.
func (l *Log) Add(e admin.Event) {
	if e.Time.IsZero() {
		e.Time = time.Now().UTC()
	}
	e.Text = strings.ToValidUTF8(e.Text[:min(len(e.Text), maxText)], "")
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n++
	e.ID = l.id(l.n)
	l.ring[l.n%uint64(len(l.ring))] = e
	l.wakeLocked()
}

func (l *Log) wakeLocked() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

func (l *Log) id(n uint64) string { return fmt.Sprintf("%s-%d", l.epoch, n) }

// oldestLocked is the number of the first event that is still there.
func (l *Log) oldestLocked() uint64 {
	if size := uint64(len(l.ring)); l.n > size {
		return l.n - size + 1
	}
	return 1
}

// Close ends the reading: readers get what there is and then ErrClosed. It waits
// for them to leave.
func (l *Log) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.wakeLocked()
	for l.readers > 0 {
		l.left.Wait()
	}
}

// Reader is a place in the log.
type Reader struct {
	l    *Log
	next uint64
	// Missed says that there were events after the wanted place which the log
	// does not have.
	Missed bool
}

// Read makes a reader of what follows the event of an id; admin.Oldest reads from
// the first that there is, and an empty id only what is to come. The caller calls
// Leave.
func (l *Log) Read(after string) (*Reader, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return nil, ErrClosed
	case l.readers >= maxReaders:
		return nil, ErrBusy
	}
	l.readers++
	r := &Reader{l: l, next: l.n + 1}
	if after == "" {
		return r, nil
	}
	oldest := l.oldestLocked()
	r.next = oldest
	if after == admin.Oldest {
		return r, nil
	}
	epoch, number, _ := strings.Cut(after, "-")
	n, err := strconv.ParseUint(number, 10, 64)
	if r.Missed = err != nil || epoch != l.epoch || n > l.n || n+1 < oldest; !r.Missed {
		r.next = n + 1
	}
	return r, nil
}

// Leave ends the reader.
func (r *Reader) Leave() {
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	r.l.readers--
	r.l.left.Broadcast()
}

// Next gives the next events. When there are none it gives a channel that is
// closed when there may be. ErrSlow says that events went which the reader has
// not read; ErrClosed that there will be no more.
func (r *Reader) Next() ([]admin.Event, <-chan struct{}, error) {
	l := r.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.next < l.oldestLocked() {
		return nil, nil, ErrSlow
	}
	var all []admin.Event
	for ; r.next <= l.n && len(all) < batch; r.next++ {
		all = append(all, l.ring[r.next%uint64(len(l.ring))])
	}
	switch {
	case len(all) > 0:
		return all, nil, nil
	case l.closed:
		return nil, nil, ErrClosed
	}
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	return nil, l.changed, nil
}

// Place is the id of the latest event that was read, or would have been.
func (r *Reader) Place() string { return r.l.id(r.next - 1) }
