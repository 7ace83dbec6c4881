package fleet

import (
	"errors"
	"testing"

	"github.com/atls-ws/atls-ws/internal/daemon/admin"
)

func TestDenialsAreKeptAndHeardOfByOtherNodes(t *testing.T) {
	everywhere(t, func(t *testing.T, s *site) {
		s.start()
		told := make(chan struct{}, 8)
		s.f.OnDenied(func() { told <- struct{}{} })
		const odd = "urn:x/1.2=a"
		for _, id := range []string{"d", odd} {
			if err := s.f.Deny(t.Context(), admin.Denial{Device: id, Reason: "r"}); err != nil {
				t.Fatal(err)
			}
			<-told
			if d, ok := s.f.Denied(id); !ok || d.Reason != "r" {
				t.Errorf("%s: %+v", id, d)
			}
		}
		// What another node stores is heard of.
		other := &Fleet{cfg: s.f.cfg, log: s.f.log, store: s.f.store, ctx: s.f.ctx}
		other.denied = &denials{f: other, all: map[string]denial{}}
		if err := other.Deny(t.Context(), admin.Denial{Device: "e"}); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() bool { _, ok := s.f.Denied("e"); return ok })
		if err := other.Allow(t.Context(), "d"); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() bool { _, ok := s.f.Denied("d"); return !ok })
		if err := s.f.Allow(t.Context(), "d"); !errors.Is(err, ErrNotDenied) {
			t.Errorf("twice: %v", err)
		}
		if all := s.f.Denials(); len(all) != 2 || all[0].Device != "e" || all[1].Device != odd {
			t.Errorf("%+v", all)
		}
		var request *RequestError
		if err := s.f.Deny(t.Context(), admin.Denial{Device: "no name"}); !errors.As(err, &request) {
			t.Error(err)
		}
	})
}
