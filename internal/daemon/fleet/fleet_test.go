package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
)

func TestSignalsWaitForTheDeviceAndComeInOrder(t *testing.T) {
	everywhere(t, func(t *testing.T, s *site) {
		s.start()
		d := s.device("pump-7.a")
		var want []string
		var ids []string
		for i := range 150 { // more than one fetch
			want = append(want, fmt.Sprint(i))
			ids = append(ids, s.to(d.id, fmt.Sprint(i)))
		}
		if o := s.outcome(ids[0]); o.State != admin.Queued || o.Text != admin.OfflineText {
			t.Errorf("%+v", o)
		}
		s.connect(d)
		want = append(want, "live")
		last := s.to(d.id, "live")
		eventually(t, func() bool { return s.outcome(last).State == admin.Acked })
		if got := d.seen(); !slices.Equal(got, want) {
			t.Errorf("got %q", got)
		}
		if o := s.outcome(ids[3]); o.State != admin.Acked || o.Text != "did 3" {
			t.Errorf("%+v", o)
		}
		eventually(t, func() bool { return len(must[[]admin.QueuedSignal](t)(s.f.Waiting(t.Context(), d.id))) == 0 })
	})
}

func TestNothingIsHandledTwiceOverARestart(t *testing.T) {
	everywhere(t, func(t *testing.T, s *site) {
		s.start()
		d := s.device("d")
		s.connect(d)
		id := s.to("d", "1")
		eventually(t, func() bool { return s.outcome(id).State == admin.Acked })
		queue := s.f.Queue()
		s.stop()
		s.start()
		if s.f.Queue() != queue {
			t.Error("the queue has another incarnation")
		}
		if o := s.outcome(id); o.State != admin.Acked || o.Text != "did 1" {
			t.Errorf("after the restart: %+v", o)
		}
		s.to("d", "2")
		s.connect(d)
		eventually(t, func() bool { return len(d.seen()) == 2 })
		if got := d.seen(); !slices.Equal(got, []string{"1", "2"}) {
			t.Errorf("got %q", got)
		}
	})
}

func TestALostAckCountsWhenTheDeviceSaysItsPosition(t *testing.T) {
	s := newSite(t, false).start()
	d := s.device("d")
	first, second := s.to("d", "1"), s.to("d", "2")
	// It handled both in a session whose acks did not come through.
	info := must[uint64](t)(s.f.store.lastSeq(t.Context()))
	d.cfg.Applied = client.NewApplied(client.Position{Queue: s.f.Queue(), Seq: info}, nil)
	s.connect(d)
	third := s.to("d", "3")
	eventually(t, func() bool { return s.outcome(third).State == admin.Acked })
	for _, id := range []string{first, second} {
		if o := s.outcome(id); o.State != admin.Acked || o.Text != handledBefore {
			t.Errorf("%+v", o)
		}
	}
	if got := d.seen(); !slices.Equal(got, []string{"3"}) {
		t.Errorf("got %q", got)
	}
}

func TestADeviceAheadOfARestoredQueueLosesNothing(t *testing.T) {
	s := newSite(t, false).start()
	d := s.device("d")
	d.cfg.Applied = client.NewApplied(client.Position{Queue: s.f.Queue(), Seq: 1000}, nil)
	s.connect(d)
	id := s.to("d", "1")
	eventually(t, func() bool { return s.outcome(id).State == admin.Acked })
	if got := d.seen(); !slices.Equal(got, []string{"1"}) {
		t.Errorf("got %q", got)
	}
}

func TestARestoredBackupGetsANewIncarnation(t *testing.T) {
	s := newSite(t, false).start()
	d := s.device("d")
	d.cfg.Applied = client.NewApplied(client.Position{Queue: s.f.Queue(), Seq: 3}, nil)
	before := s.f.Queue()
	s.to("d", "1")
	s.to("d", "2")
	s.stop()
	if err := os.Remove(filepath.Join(s.cfg.Dir, highWaterFile)); err != nil {
		t.Fatal(err)
	}
	s.start()
	if s.f.Queue() == before {
		t.Error("the incarnation is the same")
	}
	s.to("d", "3") // in the place of one that the device has handled
	s.to("other", "4")
	s.connect(d)
	eventually(t, func() bool { return len(d.seen()) == 3 })
}

func TestARefusalIsFinal(t *testing.T) {
	everywhere(t, func(t *testing.T, s *site) {
		s.start()
		d := s.device("d")
		d.cfg.Mux.OnSignal("do", func(context.Context, client.Signal) (string, error) { return "", errors.New("no paper") })
		s.connect(d)
		id := s.to("d", "1")
		eventually(t, func() bool { o := s.outcome(id); return o.Final() })
		if o := s.outcome(id); o.State != admin.Refused || o.Code != "refused" || o.Text != "no paper" {
			t.Errorf("%+v", o)
		}
		eventually(t, func() bool { return len(must[[]admin.QueuedSignal](t)(s.f.Waiting(t.Context(), "d"))) == 0 })
	})
}

func TestASignalExpiresWhileItsDeviceIsOffline(t *testing.T) {
	everywhere(t, func(t *testing.T, s *site) {
		s.start()
		id, _ := s.send(&Request{Target: Target{Device: "d"}, Name: "do", TTL: 50 * time.Millisecond})
		keep := s.to("d", "kept")
		eventually(t, func() bool { return s.outcome(id).State == admin.Expired })
		d := s.device("d")
		s.connect(d)
		eventually(t, func() bool { return s.outcome(keep).State == admin.Acked })
		if got := d.seen(); !slices.Equal(got, []string{"kept"}) {
			t.Errorf("got %q", got)
		}
	})
}

func TestARepeatedIDIsNotQueuedTwice(t *testing.T) {
	everywhere(t, func(t *testing.T, s *site) {
		s.start()
		id := [16]byte{1}
		r := &Request{Target: Target{Device: "d"}, ID: &id, Name: "do", Data: []byte("once")}
		name, _ := s.send(r)
		if _, said := s.send(r); said["d"].State != admin.Queued {
			t.Errorf("%+v", said)
		}
		if n := len(must[[]admin.QueuedSignal](t)(s.f.Waiting(t.Context(), "d"))); n != 1 {
			t.Errorf("%d in the queue", n)
		}
		d := s.device("d")
		s.connect(d)
		eventually(t, func() bool { return s.outcome(name).State == admin.Acked })
		if _, said := s.send(r); said["d"].State != admin.Acked || said["d"].Text != "did once" {
			t.Errorf("%+v", said)
		}
		if got := d.seen(); len(got) != 1 {
			t.Errorf("got %q", got)
		}
		other := *r
		other.Name = "other"
		if _, err := s.f.Send(t.Context(), &other, func(admin.Outcome) {}); err == nil || !strings.Contains(err.Error(), "an id of its own") {
			t.Error(err)
		}
	})
}

func TestAFullQueueRefusesOrDropsTheOldest(t *testing.T) {
	everywhere(t, func(t *testing.T, s *site) {
		s.cfg.PerDevice = 2
		s.start()
		first, second := s.to("d", "1"), s.to("d", "2")
		_, said := s.send(&Request{Target: Target{Device: "d"}, Name: "do"})
		if said["d"].State != admin.Failed || !strings.Contains(said["d"].Text, "full: 2 signals wait") {
			t.Errorf("%+v", said)
		}
		s.stop()
		s.cfg.DropOldest = true
		s.start()
		third := s.to("d", "3")
		if o := s.outcome(first); o.State != admin.Dropped {
			t.Errorf("%+v", o)
		}
		d := s.device("d")
		s.connect(d)
		eventually(t, func() bool { return s.outcome(third).State == admin.Acked && s.outcome(second).State == admin.Acked })
		if got := d.seen(); !slices.Equal(got, []string{"2", "3"}) {
			t.Errorf("got %q", got)
		}
	})
}

func TestCancelTakesBackWhatWaits(t *testing.T) {
	everywhere(t, func(t *testing.T, s *site) {
		s.start()
		first, second := s.to("d", "1"), s.to("d", "2")
		if all := must[[]admin.Outcome](t)(s.f.Cancel(t.Context(), first, "")); len(all) != 1 || all[0].State != admin.Canceled {
			t.Errorf("%+v", all)
		}
		d := s.device("d")
		s.connect(d)
		eventually(t, func() bool { return s.outcome(second).State == admin.Acked })
		if all := must[[]admin.Outcome](t)(s.f.Cancel(t.Context(), second, "d")); all[0].State != admin.Acked {
			t.Errorf("%+v", all)
		}
		if got := d.seen(); !slices.Equal(got, []string{"2"}) || s.outcome(first).State != admin.Canceled {
			t.Errorf("got %q, %+v", got, s.outcome(first))
		}
		if _, err := s.f.Cancel(t.Context(), strings.Repeat("0", 32), ""); !errors.Is(err, ErrUnknown) {
			t.Error(err)
		}
	})
}

func TestGroupsAndAll(t *testing.T) {
	everywhere(t, func(t *testing.T, s *site) {
		s.cfg.Groups = func() config.Groups { return config.Groups{"pumps": {Devices: []string{"pump-*", "spare"}}} }
		s.start()
		for _, id := range []string{"pump-1", "pump-2", "valve.1"} {
			d := s.device(id)
			s.connect(d)
			s.disconnect(d)
		}
		on := s.device("pump-3")
		s.connect(on)
		devices := func(target Target) []string {
			var all []string
			id, said := s.send(&Request{Target: target, Name: "do", Data: []byte("x")})
			for d := range said {
				all = append(all, d)
			}
			slices.Sort(all)
			if shown := must[*admin.Signal](t)(s.f.Show(t.Context(), id)); !shown.Complete || shown.Devices != len(all) || shown.Target != target.String() {
				t.Errorf("%+v", shown)
			}
			return all
		}
		eventually(t, func() bool { // the records are written behind
			n := 0
			_ = s.f.Known(t.Context(), func(string, []string, time.Time) { n++ })
			return n == 4
		})
		if got := devices(Target{Group: "pumps"}); !slices.Equal(got, []string{"pump-1", "pump-2", "pump-3", "spare"}) {
			t.Errorf("group: %q", got)
		}
		if got := devices(Target{}); !slices.Equal(got, []string{"pump-1", "pump-2", "pump-3", "valve.1"}) {
			t.Errorf("all: %q", got)
		}
		_, err := s.f.Send(t.Context(), &Request{Target: Target{Group: "pump"}, Name: "do"}, func(admin.Outcome) {})
		if err == nil || !strings.Contains(err.Error(), `no group "pump"`) {
			t.Error(err)
		}
		if l := must[[]admin.Signal](t)(s.f.List(t.Context(), 10)); len(l) != 2 || l[0].Target != "all" {
			t.Errorf("%+v", l)
		}
	})
}

func TestWatchTellsWhatBecomesOfASignal(t *testing.T) {
	everywhere(t, func(t *testing.T, s *site) {
		s.start()
		id := [16]byte{2}
		told := make(chan admin.Outcome, 1)
		stop := must[func()](t)(s.f.Watch("02"+strings.Repeat("0", 30), func(o admin.Outcome) { told <- o }))
		defer stop()
		s.send(&Request{Target: Target{Device: "d"}, ID: &id, Fresh: true, Name: "do", Data: []byte("1")})
		s.connect(s.device("d"))
		if o := <-told; o.State != admin.Acked || o.Device != "d" || o.Text != "did 1" || o.Time.IsZero() {
			t.Errorf("%+v", o)
		}
	})
}

func TestOneStuckDeviceDelaysNoOther(t *testing.T) {
	everywhere(t, func(t *testing.T, s *site) {
		s.start()
		stuck := s.device("stuck")
		release := make(chan struct{})
		defer close(release)
		stuck.cfg.Mux.OnSignal("do", func(ctx context.Context, _ client.Signal) (string, error) {
			select {
			case <-release:
			case <-ctx.Done():
			}
			return "", nil
		})
		s.connect(stuck)
		var held []string
		for i := range 300 { // more than the session takes unanswered
			held = append(held, s.to("stuck", strings.Repeat("x", 2000)+fmt.Sprint(i)))
		}
		eventually(t, func() bool { return s.outcome(held[0]).State == admin.Delivered })
		others := make([]*device, 20)
		for i := range others {
			others[i] = s.device(fmt.Sprint("d", i))
			s.connect(others[i])
		}
		for i := range 10 {
			for _, d := range others {
				s.to(d.id, fmt.Sprint(i))
			}
		}
		for _, d := range others {
			eventually(t, func() bool { return len(d.seen()) == 10 })
		}
		if o := s.outcome(held[299]); o.State != admin.Queued || o.Text != "" {
			t.Errorf("%+v", o)
		}
		if all := must[[]admin.Outcome](t)(s.f.Cancel(t.Context(), held[0], "")); all[0].State != admin.Delivered {
			t.Errorf("cancel of what the device has: %+v", all)
		}
	})
}

func TestTokensAreDistinctAndComeBack(t *testing.T) {
	seen := map[string]string{}
	for _, n := range []string{"a", "a.b", "a=2Eb", "a*", "a>", ">", "*", "$JS", "urn:dev:1", "ü"[:1], "=", "a=b", "%"} {
		tok := token(n)
		if strings.ContainsAny(tok, ".*> $") || name(tok) != n || seen[tok] != "" {
			t.Errorf("%q is %q, and back %q", n, tok, name(tok))
		}
		seen[tok] = n
	}
	if !reflect.DeepEqual(token("pump-7"), "pump-7") {
		t.Error("a plain name is changed")
	}
}
