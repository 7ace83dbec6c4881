package fleet

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// About is what is known of a device, connected or not.
type About struct {
	Carrier  string
	Software string
	OU       []string // organizational units of its certificate
	LastSeen time.Time
	Waiting  int // signals in its queue, those that have expired since with them
}

// About tells what is known of a device; seen is false for one that was never
// connected.
func (f *Fleet) About(ctx context.Context, device string) (a About, seen bool, err error) {
	if err := CheckDevice(device); err != nil {
		return a, false, err
	}
	d, seen := f.known.waiting(device)
	if !seen {
		m, err := f.store.last(ctx, deviceStream, deviceSubject+"."+token(device))
		if err != nil {
			return a, false, err
		}
		seen = m != nil && json.Unmarshal(m.Data, &d) == nil
	}
	a = About{Carrier: d.Carrier, Software: d.Software, OU: d.Groups, LastSeen: d.LastSeen}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	subject := signalSubject + "." + token(device)
	st, err := f.store.js.Stream(ctx, signalStream)
	if err != nil {
		return a, seen, f.store.unavailable(err)
	}
	info, err := st.Info(ctx, jetstream.WithSubjectFilter(subject))
	if err != nil {
		return a, seen, f.store.unavailable(err)
	}
	a.Waiting = int(info.State.Subjects[subject]) //nolint:gosec // a queue's bound is an int
	return a, seen, nil
}

// waiting is the record of a device that is not stored yet.
func (k *knownDevices) waiting(device string) (deviceRecord, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	d, ok := k.pending[device]
	return d, ok
}

// Members are the devices of every group, by the group's name: those that are
// configured, with the ids that they name, and those of certificates.
func (f *Fleet) Members(ctx context.Context) (map[string][]string, error) {
	configured := f.cfg.Groups()
	members := map[string]map[string]bool{}
	add := func(group, device string) {
		if members[group] == nil {
			members[group] = map[string]bool{}
		}
		if device != "" {
			members[group][device] = true
		}
	}
	for name, g := range configured {
		add(name, "")
		for _, device := range g.Devices {
			if !strings.Contains(device, "*") {
				add(name, device)
			}
		}
	}
	of := func(device string, ou []string) {
		for _, name := range configured.Of(device, ou) {
			add(name, device)
		}
	}
	f.mu.Lock()
	links := slices.Collect(maps.Values(f.links))
	f.mu.Unlock()
	for _, l := range links {
		of(l.device, l.groups)
	}
	err := f.store.walk(ctx, deviceStream, deviceSubject+".*", 1, func(m *nats.Msg) bool {
		var d deviceRecord
		if json.Unmarshal(m.Data, &d) == nil {
			of(d.Device, d.Groups)
		}
		return true
	})
	all := map[string][]string{}
	for name, devices := range members {
		all[name] = slices.Sorted(maps.Keys(devices))
	}
	return all, err
}
