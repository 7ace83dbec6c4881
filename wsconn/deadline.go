package wsconn

import (
	"sync"
	"time"
)

// deadline wakes those who wait on a condition when a time has come. The
// condition's lock guards it.
type deadline struct {
	expired bool
	timer   *time.Timer
}

func (d *deadline) setLocked(t time.Time, cond *sync.Cond) {
	d.stopLocked()
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

func (d *deadline) stopLocked() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}
