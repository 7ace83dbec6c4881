package access

import (
	"testing"
)

func TestDenyAndGroupsAreReadAgain(t *testing.T) {
	log := new(lines)
	g, file := guard(t, "groups: {gone: [b]}\ndeny: [\"old-*\", \"@gone\"]\n", log)
	for id, want := range map[string]string{"old-1": "deny[0] (s.yaml:2)", "b": "deny[1] (s.yaml:2)", "a": ""} {
		if got := g.Denied(Device{ID: id}); got != want {
			t.Errorf("%s: %q", id, got)
		}
	}
	if g.Denied(Device{ID: "x", OU: []string{"gone"}}) == "" {
		t.Error("a certificate of the group is not denied")
	}
	changed := make(chan struct{}, 1)
	g.OnChange(func() { changed <- struct{}{} })
	write(t, file, "groups: {new: [c]}\ndeny: [\"a\"]\n")
	<-changed
	if g.Denied(Device{ID: "a"}) == "" || g.Denied(Device{ID: "b"}) != "" || !g.Groups().Has("new", "c", nil) {
		t.Error("the old rules are still there")
	}
	// With a mistake the old ones stay.
	write(t, file, "deny: [\"@nosuch\"]\n")
	log.await(t, "there is no group")
	if g.Denied(Device{ID: "a"}) == "" {
		t.Error("the old rules are gone")
	}
}
