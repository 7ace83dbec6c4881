package deadline

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestReplacedDeadlineDoesNotExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		cond := sync.NewCond(&mu)
		var d Deadline
		mu.Lock()
		defer mu.Unlock()
		d.SetLocked(time.Now().Add(time.Second), cond)
		d.SetLocked(time.Now().Add(time.Minute), cond)
		begin := time.Now()
		for !d.ExpiredLocked() {
			cond.Wait()
		}
		if after := time.Since(begin); after != time.Minute {
			t.Errorf("expired after %s", after)
		}
		d.SetLocked(time.Time{}, cond)
		if d.ExpiredLocked() {
			t.Error("no deadline has expired")
		}
		d.SetLocked(time.Now(), cond)
		if !d.ExpiredLocked() {
			t.Error("a past deadline has not expired")
		}
	})
}
