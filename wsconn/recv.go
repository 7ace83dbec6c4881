package wsconn

import (
	"os"
	"sync"
	"time"

	"github.com/atls-ws/atls-ws/internal/deadline"
)

// receiver is the receiving direction: a ring between the read loop, which
// fills it, and the readers. The ring exists only while it is in use.
type receiver struct {
	mu       sync.Mutex
	cond     sync.Cond
	deadline deadline.Deadline
	ring     []byte
	first, n int    // the n bytes from first on are unread
	filling  bool   // the read loop is using the ring
	err      error  // after the last byte of the ring
	closed   bool   // err is for now; what arrives is discarded
	notify   func() // called once when there is something to read
}

func newReceiver() *receiver {
	r := &receiver{}
	r.cond.L = &r.mu
	return r
}

func (r *receiver) read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		switch {
		case r.closed:
			return 0, r.err
		case r.deadline.ExpiredLocked():
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		case r.n > 0:
			return r.takeLocked(p), nil
		case r.err != nil:
			return 0, r.err
		}
		r.cond.Wait()
	}
}

// readArrived is read without waiting, and without the deadline.
func (r *receiver) readArrived(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n > 0 && !r.closed {
		return r.takeLocked(p), nil
	}
	return 0, r.err
}

// notifyArrival has fn called when there is something to read, unless there is.
func (r *receiver) notifyArrival(fn func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n > 0 || r.err != nil {
		return false
	}
	r.notify = fn
	return true
}

// arrivedLocked tells those who wait. What notify does would make the stack of
// the read loop grow for good, so it has another one.
func (r *receiver) arrivedLocked() {
	r.cond.Broadcast()
	if fn := r.notify; fn != nil {
		r.notify = nil
		go fn()
	}
}

func (r *receiver) takeLocked(p []byte) (n int) {
	full := r.n == len(r.ring)
	for n < len(p) && r.n > 0 {
		k := copy(p[n:], r.ring[r.first:min(r.first+r.n, len(r.ring))])
		n += k
		r.n -= k
		r.first = (r.first + k) % len(r.ring)
	}
	if full {
		r.cond.Broadcast()
	}
	r.releaseLocked()
	return n
}

// releaseLocked gives the ring back when it is empty and nobody fills it.
func (r *receiver) releaseLocked() {
	if r.n == 0 && !r.filling && r.ring != nil {
		putBuffer(r.ring)
		r.ring, r.first = nil, 0
	}
}

// fill moves the payload of a frame into the ring, waiting for room.
func (r *receiver) fill(f *frameReader, h header) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.filling = true
	defer func() {
		r.filling = false
		r.releaseLocked()
	}()
	if r.ring == nil {
		r.ring = getBuffer()
	}
	for done := int64(0); done < h.length; {
		for r.n == len(r.ring) && !r.closed {
			r.cond.Wait()
		}
		if r.closed {
			r.n = 0
		}
		from := (r.first + r.n) % len(r.ring)
		to := min(from+len(r.ring)-r.n, len(r.ring))
		to = int(min(int64(to), int64(from)+h.length-done))
		// Readers move first and n so that from stays what it is.
		r.mu.Unlock()
		n, err := f.payload(r.ring[from:to])
		mask(r.ring[from:from+n], h.key, done)
		r.mu.Lock()
		if err != nil {
			return err
		}
		done += int64(n)
		if !r.closed {
			r.n += n
			r.arrivedLocked()
		}
	}
	return nil
}

// fail ends the direction after what has arrived.
func (r *receiver) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
	}
	r.arrivedLocked()
}

// close ends the direction now.
func (r *receiver) close(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed, r.err = true, err
	r.deadline.StopLocked()
	r.n = 0
	r.releaseLocked()
	r.arrivedLocked()
}

func (r *receiver) setDeadline(t time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return r.err
	}
	r.deadline.SetLocked(t, &r.cond)
	return nil
}
