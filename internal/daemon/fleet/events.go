package fleet

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/atls-ws/atls-ws/internal/daemon/admin"
)

// Events calls fn, from one goroutine at a time for each kind, for the outcomes
// of signals as they are stored and for what other nodes announce, until Close.
func (f *Fleet) Events(fn func(admin.Event)) error {
	_, err := f.store.nc.Subscribe(doneSubject+".*.*", func(m *nats.Msg) {
		if o, err := parseOutcome(m); err == nil {
			fn(admin.Event{Type: admin.TypeSignal + o.State, Time: o.Time, Device: o.Device, Signal: o.Signal, Code: o.Code, Text: o.Text})
		}
	})
	if err == nil {
		_, err = f.store.nc.Subscribe(eventSubject+".*", func(m *nats.Msg) {
			var e admin.Event
			if !strings.HasSuffix(m.Subject, "."+f.node) && json.Unmarshal(m.Data, &e) == nil {
				fn(e)
			}
		})
	}
	if err != nil {
		return fmt.Errorf("fleet: %w", err)
	}
	return nil
}

// Announce tells the other nodes of an event. While NATS is away they do not
// hear of it.
func (f *Fleet) Announce(e admin.Event) {
	data, _ := json.Marshal(e) // of strings and a time
	if err := f.store.nc.Publish(eventSubject+"."+f.node, data); err != nil {
		f.log.Debug("event is not announced", "err", err)
	}
}
