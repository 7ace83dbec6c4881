package server

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestTurnsGoToWhoHasBegunAndThenInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newTurns(1, 10, 10)
		var got []string
		wait := func(name string, turn func() *turn) {
			go func() {
				h := turn()
				got = append(got, name)
				h.Give()
			}()
			synctest.Wait()
		}
		first := q.Begin(t.Context())
		if first == nil {
			t.Fatal("a free turn")
		}
		gone, leave := context.WithCancel(t.Context())
		wait("new 1", func() *turn { return q.Begin(t.Context()) })
		left := make(chan *turn)
		go func() { left <- q.Begin(gone) }()
		synctest.Wait()
		wait("new 2", func() *turn { return q.Begin(t.Context()) })
		wait("begun", func() *turn { h := q.Join(); h.Take(); return h })
		leave()
		if <-left != nil {
			t.Error("a turn for one who has left")
		}
		first.Give()
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
	q := newTurns(1, 10, 10)
	for range 2000 {
		first := q.Begin(t.Context())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			if h := q.Begin(ctx); h != nil {
				h.Give()
				h.Leave()
			}
			close(done)
		}()
		go cancel()
		first.Give()
		first.Leave()
		<-done
	}
	if q.free != 1 || q.room != 10 || len(q.fresh) != 0 {
		t.Errorf("%d free, room for %d, %d wait", q.free, q.room, len(q.fresh))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if q.Begin(ctx) == nil {
		t.Error("no turn is left")
	}
}

func TestOnlySoManyHandshakesAreUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newTurns(2, 2, 10)
		var first []*turn
		for range 2 {
			h := q.Begin(t.Context())
			if h == nil {
				t.Fatal("no turn")
			}
			h.Give()
			first = append(first, h)
		}
		third := make(chan *turn, 1)
		go func() { third <- q.Begin(t.Context()) }()
		synctest.Wait()
		select {
		case <-third:
			t.Fatal("a third is under way")
		default:
		}
		first[0].Take() // who has begun goes on
		first[0].Give()
		first[0].Leave()
		first[0].Leave() // once more is no more room
		h := <-third
		if h == nil {
			t.Fatal("no turn when there is room")
		}
		h.Give()
		joined := q.Join()
		joined.Leave()
		h.Leave()
		first[1].Leave()
		if q.free != 2 || q.room != 2 {
			t.Errorf("%d free, room for %d", q.free, q.room)
		}
	})
}

// Who sends a byte now and then keeps devices out no longer than who sends none.
func TestHandshakesThatDripKeepNobodyOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newTurns(1, 2, 10)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 2 {
			h := q.Begin(ctx)
			h.Give()
			wg.Go(func() {
				h.Take()
				defer h.Leave()
				defer h.Give()
				for ctx.Err() == nil {
					back := h.Aside()
					time.Sleep(3 * standsStill / 4)
					back()
				}
			})
		}
		soon, end := context.WithTimeout(ctx, 5*standsStill)
		defer end()
		device := q.Begin(soon)
		if device == nil {
			t.Error("two that drip keep a device out")
		} else {
			device.Give()
			device.Leave()
		}
		cancel()
		wg.Wait()
		if q.free != 1 || q.room != 2 {
			t.Errorf("%d free, room for %d", q.free, q.room)
		}
	})
}

func TestOnlySoManyWaitForATurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newTurns(1, 1, 2)
		first := q.Begin(t.Context())
		for range 2 {
			go func() {
				h := q.Begin(t.Context())
				h.Give()
				h.Leave()
			}()
		}
		synctest.Wait()
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if q.Begin(ctx) != nil || time.Since(began) > 0 {
			t.Error("a third waits")
		}
		first.Give()
		first.Leave()
		synctest.Wait()
		if q.free != 1 || q.room != 1 || len(q.fresh) != 0 {
			t.Errorf("%d free, room for %d, %d wait", q.free, q.room, len(q.fresh))
		}
	})
}
