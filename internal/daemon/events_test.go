package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/daemon/access"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/daemon/events"
)

// errEnough ends a stream of events.
var errEnough = errors.New("enough")

// events reads along until the event that stop is true of, and returns all.
func (s *site) events(f *admin.EventFilter, stop func(admin.Event) bool) []admin.Event {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	var all []admin.Event
	err := s.admin.Events(ctx, f, func(e admin.Event) error {
		if all = append(all, e); stop(e) {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		s.t.Fatalf("%v after %+v", err, all)
	}
	return all
}

func types(all []admin.Event) string {
	var names []string
	for _, e := range all {
		names = append(names, e.Type)
	}
	return strings.Join(names, " ")
}

func last(name string) func(admin.Event) bool {
	return func(e admin.Event) bool { return e.Type == name }
}

func TestEventsTellWhatHappens(t *testing.T) {
	s := start(t, nil)
	mux := new(client.Mux)
	mux.OnSignal("yes", func(context.Context, client.Signal) (string, error) { return "done", nil })
	mux.OnSignal("no", func(context.Context, client.Signal) (string, error) { return "", errors.New("not today") })
	sess := s.connect("d", mux)
	yes, no := &admin.Push{Device: "d", Name: "yes"}, &admin.Push{Device: "d", Name: "no"}
	for _, p := range []*admin.Push{yes, no} {
		must[*admin.Outcome](t)(s.admin.Push(t.Context(), p))
	}
	must[*admin.Denial](t)(s.admin.Deny(t.Context(), "d", "why not"))
	_ = ended(t, sess)
	all := s.events(&admin.EventFilter{After: admin.Oldest}, last(admin.TypeDisconnected))
	by := map[string]admin.Event{}
	for _, e := range all {
		if e.ID == "" || e.Time.IsZero() || e.Device != "d" {
			t.Errorf("%+v", e)
		}
		by[e.Type] = e
	}
	if e := by[admin.TypeConnected]; e.Session != sess.ID() || e.Carrier != "websocket" || e.Outer != "no tls" {
		t.Errorf("%+v", e)
	}
	if e := by["signal.acked"]; e.Signal != yes.ID || e.Text != "done" {
		t.Errorf("%+v", e)
	}
	if e := by["signal.refused"]; e.Signal != no.ID || e.Text != "not today" || e.Code != "refused" {
		t.Errorf("%+v", e)
	}
	if e := by[admin.TypeDenied]; e.By != "local" || e.Text != "why not" {
		t.Errorf("%+v", e)
	}
	if e := by[admin.TypeDisconnected]; e.Session != sess.ID() || !strings.Contains(e.Text, "denied") {
		t.Errorf("%+v", e)
	}
}

func TestEventsContinueAndAreFiltered(t *testing.T) {
	s := start(t, nil)
	sess := s.connect("d-1", nil)
	f := &admin.EventFilter{After: admin.Oldest}
	s.events(f, last(admin.TypeConnected))
	place := f.After
	others := []*client.Session{s.connect("d-2", nil), s.connect("e-1", nil)}
	_ = sess.Close()
	all := s.events(f, last(admin.TypeDisconnected))
	if types(all) != "device.connected device.connected device.disconnected" {
		t.Errorf("after %s: %s", place, types(all))
	}
	all = s.events(&admin.EventFilter{After: place, Devices: []string{"d-*"}, Types: []string{"*.connected", admin.TypeDisconnected}}, last(admin.TypeDisconnected))
	if types(all) != "device.connected device.disconnected" || all[0].Device != "d-2" {
		t.Errorf("%+v", all)
	}
	// A place that the server does not know: it says so, and gives what it has.
	if all = s.events(&admin.EventFilter{After: "OLD-7"}, last(admin.TypeDisconnected)); types(all) != "events.missed device.connected device.connected device.connected device.disconnected" {
		t.Errorf("%s", types(all))
	}
	// The stream ends in an orderly way with the server, and its place is kept.
	said := make(chan string, 8)
	done := make(chan error, 1)
	go func() {
		done <- s.admin.Events(t.Context(), &admin.EventFilter{Opened: func() error { said <- "open"; return nil }}, func(e admin.Event) error {
			said <- e.Type
			return nil
		})
	}()
	if got := <-said; got != "open" {
		t.Error(got)
	}
	for _, o := range others { // else the server waits for them to go
		_ = o.Close()
	}
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	var end *admin.EndedError
	if err := <-done; !errors.As(err, &end) {
		t.Error(err)
	}
	cut := ""
	for range len(said) {
		cut = <-said
	}
	if cut != admin.TypeCut {
		t.Errorf("the last word: %q", cut)
	}
}

func TestEventsAreShownToWhoMaySeeTheDevice(t *testing.T) {
	s := startWith(t, func(cfg *config.Server, _ string) {
		cfg.Authorization.Operators = []config.OperatorRule{{Who: []string{"local"}, May: []string{"list"}, Devices: []string{"d-*"}}}
	})
	s.connect("d-1", nil)
	if _, err := s.dial("e-1"); err != nil {
		t.Fatal(err)
	}
	s.connect("d-2", nil)
	all := s.events(&admin.EventFilter{After: admin.Oldest}, func(e admin.Event) bool { return e.Device == "d-2" })
	if types(all) != "device.connected device.connected" {
		t.Errorf("%+v", all)
	}
}

func TestEventsAsCloudEvents(t *testing.T) {
	s := start(t, nil)
	sess := s.connect("d", nil)
	stopped := make(chan struct{})
	go func() { // the request below ends with the server
		defer close(stopped)
		s.events(&admin.EventFilter{After: admin.Oldest}, last(admin.TypeConnected))
		time.Sleep(100 * time.Millisecond)
		_ = sess.Close()
		_ = s.stop()
	}()
	resp, body := s.raw(http.MethodGet, "/v1/events?after=oldest", http.Header{"Accept": {"text/event-stream, application/cloudevents+json"}}, "")
	<-stopped
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%s %v", resp.Status, resp.Header)
	}
	for line := range strings.Lines(body) {
		data, ok := strings.CutPrefix(line, "data: ")
		if !ok {
			continue
		}
		var e struct {
			SpecVersion, ID, Type, Source, Subject, DataContentType string
			Data                                                    admin.Event
		}
		if err := json.Unmarshal([]byte(data), &e); err != nil || e.SpecVersion != "1.0" || e.ID == "" || e.Type != "io.github.atls-ws.device.connected" ||
			e.Source != "/devices/d" || e.Subject != "d" || e.DataContentType != "application/json" || e.Data.Device != "d" {
			t.Errorf("%s: %+v, %v", data, e, err)
		}
		return
	}
	t.Errorf("no event in %q", body)
}

// stuck is a response that takes one write and then nothing until it is freed.
type stuck struct {
	http.ResponseWriter
	wrote, free chan struct{}
	text        strings.Builder
}

func (s *stuck) Header() http.Header { return http.Header{} }
func (s *stuck) WriteHeader(int)     {}
func (s *stuck) Flush()              {}
func (s *stuck) Write(p []byte) (int, error) {
	s.wrote <- struct{}{}
	<-s.free
	return s.text.Write(p)
}

func TestASlowReaderOfEventsIsCutWithAWord(t *testing.T) {
	guard := must[*access.Guard](t)(access.Open(config.DefaultServer(), "", slog.New(slog.DiscardHandler)))
	defer guard.Close()
	a := &api{events: events.New(8), guard: guard}
	w := &stuck{wrote: make(chan struct{}), free: make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.eventStream(w, must[*http.Request](t)(http.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/events", http.NoBody)))
	}()
	<-w.wrote // its place
	for range 9 {
		a.events.Add(admin.Event{Type: "x"})
	}
	close(w.free)
	<-w.wrote
	<-done
	a.events.Close()
	if text := w.text.String(); !strings.Contains(text, "event: events.cut\ndata: ") || !strings.Contains(text, "too slow") || strings.Contains(text, "event: x") {
		t.Errorf("%q", text)
	}
}
