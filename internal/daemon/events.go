package daemon

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/daemon/cloudevent"
	"github.com/atls-ws/atls-ws/internal/daemon/events"
	"github.com/atls-ws/atls-ws/server"
)

const (
	keptEvents     = 4096
	heartbeat      = 15 * time.Second
	eventWrite     = 10 * time.Second // for a reader to take what is written
	maxPatterns    = 64
	cloudEventType = "io.github.atls-ws." // before the type of an event that is a CloudEvent
)

// emit notes an event of this node.
func (d *daemon) emit(e admin.Event) {
	e.Time = time.Now().UTC()
	d.events.Add(e)
	d.fleet.Announce(e)
}

// connected is the server's hook.
func (d *daemon) connected(s *server.Session) {
	was, now := d.counts.connected(s)
	d.fleet.Connected(s)
	e := admin.Event{Type: admin.TypeConnected, Device: s.Device(), Session: s.ID(), Carrier: s.Hello().Carrier, Address: s.RemoteAddr().String(), Outer: now}
	d.emit(e)
	if was != "" && was != now {
		e.Type, e.Was = admin.TypeOuter, was
		if o := s.Hello().Outer; o != nil && len(o.Chain) > 0 {
			e.Text = "issuer " + o.Chain[0].Issuer
		}
		d.emit(e)
	}
}

// disconnected is the server's hook.
func (d *daemon) disconnected(s *server.Session, err error) {
	d.fleet.Disconnected(s)
	e := admin.Event{Type: admin.TypeDisconnected, Device: s.Device(), Session: s.ID(), Carrier: s.Hello().Carrier, Address: s.RemoteAddr().String()}
	if err != nil {
		e.Text = err.Error()
	}
	d.emit(e)
}

// eventStream sends events as they happen: text/event-stream of the HTML standard.
func (a *api) eventStream(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	s := &eventWriter{api: a, w: w, r: r, ctl: http.NewResponseController(w), devices: q["device"], types: q["type"],
		cloud: strings.Contains(strings.ToLower(strings.Join(r.Header.Values("Accept"), ",")), cloudevent.JSON)}
	if len(s.devices) > maxPatterns || len(s.types) > maxPatterns {
		fail(w, http.StatusBadRequest, fmt.Sprintf("at most %d times device and type", maxPatterns))
		return
	}
	reader, err := a.events.Read(cmp.Or(r.Header.Get("Last-Event-ID"), q.Get("after")))
	if err != nil {
		w.Header().Set("Retry-After", "5")
		reply(w, http.StatusServiceUnavailable, admin.Outcome{State: admin.Unavailable, Text: err.Error(), Next: "try again in a while"})
		return
	}
	defer reader.Leave()
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx would collect them
	h.Set("Connection", "close")     // the connection has a deadline for writing
	if reader.Missed {
		s.add(admin.Event{Time: time.Now().UTC(), Type: admin.TypeMissed, Text: "the server does not have all events since then: it was restarted, or they were too many"})
	}
	s.run(reader)
}

// eventWriter is one answer.
type eventWriter struct {
	*api
	w       http.ResponseWriter
	r       *http.Request
	ctl     *http.ResponseController
	devices []string // patterns
	types   []string
	cloud   bool // as CloudEvents
	buf     bytes.Buffer
}

func (s *eventWriter) run(reader *events.Reader) {
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	s.place(reader)
	for {
		all, more, err := reader.Next()
		for _, e := range all {
			if s.wanted(&e) {
				s.add(e)
			}
		}
		if err != nil {
			text := err.Error()
			if errors.Is(err, events.ErrSlow) {
				text += ": come again with Last-Event-ID, or ask for less with device and type"
			}
			s.add(admin.Event{Time: time.Now().UTC(), Type: admin.TypeCut, Text: text})
		}
		if !s.flush() || err != nil {
			return
		}
		if more == nil {
			continue
		}
		select {
		case <-more:
		case <-tick.C:
			s.place(reader)
		case <-s.r.Context().Done():
			return
		}
	}
}

// wanted says whether an event is asked for, and for the operator's eyes.
func (s *eventWriter) wanted(e *admin.Event) bool {
	return (len(s.devices) == 0 || config.AnyMatch(s.devices, e.Device)) &&
		(len(s.types) == 0 || config.AnyMatch(s.types, e.Type)) &&
		s.guard.Sees(operator(s.r), e.Device)
}

func (s *eventWriter) add(e admin.Event) {
	var data []byte
	if s.cloud {
		data = asCloudEvent(&e)
	} else {
		data, _ = json.Marshal(e) // of strings and a time
	}
	if e.ID != "" {
		_, _ = fmt.Fprintf(&s.buf, "id: %s\n", e.ID)
	}
	_, _ = fmt.Fprintf(&s.buf, "event: %s\ndata: %s\n\n", e.Type, data)
}

// place says how far the reader is, so that it continues there though nothing
// was for it; it also keeps the connection alive.
func (s *eventWriter) place(reader *events.Reader) {
	_, _ = fmt.Fprintf(&s.buf, ":\nid: %s\n\n", reader.Place())
}

func (s *eventWriter) flush() bool {
	if s.buf.Len() == 0 {
		return true
	}
	_ = s.ctl.SetWriteDeadline(time.Now().Add(eventWrite)) // an error: not supported, as in tests
	_, err := s.w.Write(s.buf.Bytes())
	s.buf.Reset()
	return err == nil && s.ctl.Flush() == nil
}

// asCloudEvent is an event in the JSON format of CloudEvents.
func asCloudEvent(e *admin.Event) []byte {
	source := "/"
	if e.Device != "" {
		source = "/devices/" + e.Device
	}
	inner := *e
	inner.ID = ""
	data, _ := json.Marshal(inner)
	ce := cloudevent.Event{ID: cmp.Or(e.ID, e.Type), Source: source, Type: cloudEventType + e.Type, Subject: e.Device, Time: e.Time, ContentType: "application/json", Data: data}
	out, _ := json.Marshal(&ce)
	return out
}
