package server

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestTurnsGoToWhoHasBegunAndThenInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newTurns(1)
		var got []string
		wait := func(name string, fn func()) {
			go func() {
				fn()
				got = append(got, name)
				q.Give()
			}()
			synctest.Wait()
		}
		if !q.Begin(t.Context()) {
			t.Fatal("a free turn")
		}
		gone, leave := context.WithCancel(t.Context())
		wait("new 1", func() { q.Begin(t.Context()) })
		left := make(chan bool)
		go func() { left <- q.Begin(gone) }()
		synctest.Wait()
		wait("new 2", func() { q.Begin(t.Context()) })
		wait("begun", q.Take)
		leave()
		if <-left {
			t.Error("a turn for one who has left")
		}
		q.Give()
		synctest.Wait()
		if len(got) != 3 || got[0] != "begun" || got[1] != "new 1" || got[2] != "new 2" {
			t.Errorf("order %q", got)
		}
		if q.free != 1 {
			t.Errorf("%d free", q.free)
		}
	})
}

func TestTurnThatComesAsItsOwnerLeavesIsPassedOn(t *testing.T) {
	q := newTurns(1)
	for range 2000 {
		q.Begin(t.Context())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			if q.Begin(ctx) {
				q.Give()
			}
			close(done)
		}()
		go cancel()
		q.Give()
		<-done
	}
	if q.free != 1 || len(q.fresh) != 0 {
		t.Errorf("%d free, %d wait", q.free, len(q.fresh))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if !q.Begin(ctx) {
		t.Error("no turn is left")
	}
}
