package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
)

// Target is one device, or a group's, or with neither all of them.
type Target struct {
	Device, Group string
}

// String is the target as it is kept and shown.
func (t Target) String() string {
	switch {
	case t.Device != "":
		return "device " + t.Device
	case t.Group != "":
		return "group " + t.Group
	}
	return "all"
}

// targets calls fn for each device of a target, once.
//
// Who is in a group is config.Groups' to say. Patterns and certificates need a
// device that has been connected; a plain name does not.
func (f *Fleet) targets(ctx context.Context, t Target, fn func(device string) error) error {
	if t.Device != "" {
		if err := CheckDevice(t.Device); err != nil {
			return err
		}
		return fn(t.Device)
	}
	configured := f.cfg.Groups()
	group, found := configured[t.Group]
	found = found || t.Group == ""
	seen := map[string]bool{}
	for _, n := range group.Devices {
		if !strings.Contains(n, "*") && !seen[n] {
			seen[n] = true
			if err := fn(n); err != nil {
				return err
			}
		}
	}
	var err error
	add := func(device string, ou []string) bool {
		if seen[device] {
			return true
		}
		if t.Group != "" {
			if !configured.Has(t.Group, device, ou) {
				return true
			}
			found = true
		}
		seen[device] = true
		err = fn(device)
		return err == nil
	}
	f.mu.Lock()
	links := slices.Collect(maps.Values(f.links))
	f.mu.Unlock()
	for _, l := range links { // their records may not be stored yet
		if !add(l.device, l.groups) {
			return err
		}
	}
	werr := f.store.walk(ctx, deviceStream, deviceSubject+".*", 1, func(m *nats.Msg) bool {
		var d deviceRecord
		if json.Unmarshal(m.Data, &d) != nil {
			return true
		}
		return add(d.Device, d.Groups)
	})
	if err == nil {
		err = werr
	}
	if err == nil && !found {
		return &RequestError{fmt.Errorf("there is no group %q: neither the configuration nor the certificate of a known device names it", t.Group)}
	}
	return err
}
