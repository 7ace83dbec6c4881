// Package deadline is the deadline of one direction of a net.Conn whose reads
// and writes wait on a condition: the connection lives on when it passes.
package deadline

import (
	"sync"
	"time"
)

// Deadline wakes those who wait on a condition when a time has come. The
// condition's lock guards it. The zero value is no deadline.
type Deadline struct {
	expired bool
	timer   *time.Timer
}

// ExpiredLocked says whether the time has come.
func (d *Deadline) ExpiredLocked() bool { return d.expired }

// SetLocked replaces the deadline; the zero time is none. Those who wait on cond
// look again when t comes, at once when it is past.
func (d *Deadline) SetLocked(t time.Time, cond *sync.Cond) {
	d.StopLocked()
	d.expired = false
	if t.IsZero() {
		return
	}
	left := time.Until(t)
	if left <= 0 {
		d.expired = true
		cond.Broadcast()
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(left, func() {
		cond.L.Lock()
		defer cond.L.Unlock()
		if d.timer == timer { // not replaced while this waited for the lock
			d.expired = true
			cond.Broadcast()
		}
	})
	d.timer = timer
}

// StopLocked releases the timer. What has expired stays so.
func (d *Deadline) StopLocked() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}
