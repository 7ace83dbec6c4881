package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Event is something that happened to a device or a signal.
type Event struct {
	ID      string    `json:"id,omitempty"` // for EventFilter.After; none in what is about the stream itself
	Time    time.Time `json:"time"`
	Type    string    `json:"type"`
	Device  string    `json:"device,omitempty"`
	Session string    `json:"session,omitempty"`
	Signal  string    `json:"signal,omitempty"` // id
	Code    string    `json:"code,omitempty"`   // of a refusal
	Text    string    `json:"text,omitempty"`   // the device's answer, or why
	Address string    `json:"address,omitempty"`
	Carrier string    `json:"carrier,omitempty"`
	Outer   string    `json:"outer,omitempty"` // verified, not verified, intercepted or no tls
	Was     string    `json:"was,omitempty"`   // Outer before
	By      string    `json:"by,omitempty"`    // the operator
}

// The types of events. Those of signals are TypeSignal and the outcome's state.
const (
	TypeConnected    = "device.connected"
	TypeDisconnected = "device.disconnected" // Text says why
	TypeOuter        = "device.outer"        // what the device meets has changed
	TypeDenied       = "device.denied"
	TypeAllowed      = "device.allowed"
	TypeSignal       = "signal."
	TypeMissed       = "events.missed" // others have happened since After
	TypeCut          = "events.cut"    // the stream ends, Text says why
)

// Oldest asks for all events that the server still has.
const Oldest = "oldest"

// EventFilter says which events are wanted. A * stands for any text.
type EventFilter struct {
	Devices []string // none: of all
	Types   []string // none: all
	// After is the id of an event; those after it come first. Empty: only what is
	// to come. Events keeps it up.
	After string
	// Opened is called when the server has begun to answer; it may be nil.
	Opened func() error
}

const (
	maxEvent    = 64 << 10
	silentEvent = 45 * time.Second // three heartbeats
)

// Events calls fn for each event until it returns an error, which comes back, or
// the stream ends, which is an error too: call it again, with the same filter, to
// go on. What ends it for good is an *OutcomeError.
func (c *Client) Events(ctx context.Context, f *EventFilter, fn func(Event) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	q := url.Values{"device": f.Devices, "type": f.Types}
	h := http.Header{"Accept": {"text/event-stream"}}
	if f.After != "" {
		h.Set("Last-Event-ID", f.After)
	}
	resp, err := c.do(ctx, &http.Transport{DisableKeepAlives: true, DialContext: c.connect}, http.MethodGet, "/v1/events?"+q.Encode(), h, nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return decode(resp, nil)
	}
	if f.Opened != nil {
		if err := f.Opened(); err != nil {
			return err
		}
	}
	silence := time.AfterFunc(silentEvent, cancel)
	defer silence.Stop()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxEvent)
	var data strings.Builder
	for lines.Scan() {
		silence.Reset(silentEvent)
		field, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case field == "id":
			f.After = value
		case field == "data":
			if data.Len()+len(value) > maxEvent {
				return errors.New("an event of the server is too long")
			}
			data.WriteString(value)
		case field == "" && lines.Text() == "" && data.Len() > 0:
			var e Event
			if err := json.Unmarshal([]byte(data.String()), &e); err != nil {
				return fmt.Errorf("an event of the server: %w", err)
			}
			data.Reset()
			if err := fn(e); err != nil {
				return err
			}
		}
	}
	err = lines.Err()
	if err == nil || ctx.Err() != nil {
		err = io.ErrUnexpectedEOF
	}
	return &EndedError{err}
}

// EndedError says that a stream of events has ended and may be asked for again.
type EndedError struct{ Err error }

// Error says so.
func (e *EndedError) Error() string { return "the stream of events ended: " + e.Err.Error() }

// Unwrap returns Err.
func (e *EndedError) Unwrap() error { return e.Err }
