package server

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestTurnsGoToWhoHasBegunAndThenInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newTurns(1, 10)
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
	q := newTurns(1, 10)
	for range 2000 {
		q.Begin(t.Context())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			if q.Begin(ctx) {
				q.Give()
				q.Leave()
			}
			close(done)
		}()
		go cancel()
		q.Give()
		q.Leave()
		<-done
	}
	if q.free != 1 || q.room != 10 || len(q.fresh) != 0 {
		t.Errorf("%d free, room for %d, %d wait", q.free, q.room, len(q.fresh))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if !q.Begin(ctx) {
		t.Error("no turn is left")
	}
}

func TestOnlySoManyHandshakesAreUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newTurns(2, 2)
		for range 2 {
			if !q.Begin(t.Context()) {
				t.Fatal("no turn")
			}
			q.Give()
		}
		third := make(chan bool, 1)
		go func() { third <- q.Begin(t.Context()) }()
		synctest.Wait()
		select {
		case <-third:
			t.Fatal("a third is under way")
		default:
		}
		q.Take() // who has begun goes on
		q.Give()
		q.Leave()
		if !<-third {
			t.Fatal("no turn when there is room")
		}
		q.Give()
		q.Join()
		q.Leave()
		q.Leave()
		q.Leave()
		if q.free != 2 || q.room != 2 {
			t.Errorf("%d free, room for %d", q.free, q.room)
		}
	})
}
