// Package cloudevent is CloudEvents 1.0 in the HTTP binding's binary mode and in
// the JSON format: requests to events, and events to JSON. It does no I/O.
//
// Source: CloudEvents 1.0.2, its HTTP protocol binding and its JSON format.
package cloudevent

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"
)

// Version is the specification's, as events say it.
const Version = "1.0"

// JSON is the media type of an event as a whole in JSON.
const JSON = "application/cloudevents+json"

// Bounds of what is taken.
const (
	maxAttributes = 64
	maxValue      = 4 << 10 // of an attribute, in bytes
)

// Event is an event. ID, Source and Type are never empty.
type Event struct {
	ID          string
	Source      string
	Type        string
	Subject     string
	Time        time.Time // zero: not said
	DataSchema  string
	ContentType string // of Data
	Data        []byte
	Extensions  map[string]string // by name, in the canonical string form
}

// TypeError says that a request is in a format that is not taken.
type TypeError struct{ text string }

// Error says what is.
func (e *TypeError) Error() string { return e.text }

const wanted = "want the headers ce-specversion, ce-id, ce-source and ce-type with the data as body, or " + JSON

// Parse reads the event of a request's header and body, in either mode. The
// event's Data may alias body. The error is a *TypeError when another format
// would do.
func Parse(h http.Header, body []byte) (*Event, error) {
	contentType := h.Get("Content-Type")
	media, params, err := mime.ParseMediaType(contentType)
	if err != nil && contentType != "" && strings.HasPrefix(strings.ToLower(contentType), "application/cloudevents") {
		return nil, &TypeError{"Content-Type: " + err.Error()}
	}
	switch {
	case media == JSON:
		if c := params["charset"]; c != "" && !strings.EqualFold(c, "utf-8") {
			return nil, &TypeError{"charset: JSON is UTF-8"}
		}
		return parseJSON(body)
	case strings.HasPrefix(media, "application/cloudevents-batch"):
		return nil, &TypeError{"batches are not taken: send each event by itself; " + wanted}
	case strings.HasPrefix(media, "application/cloudevents"):
		return nil, &TypeError{media + " is not taken: " + wanted}
	case h.Get("Ce-Specversion") == "":
		return nil, &TypeError{"not a CloudEvent: " + wanted}
	}
	return parseBinary(h, contentType, body)
}

func parseBinary(h http.Header, contentType string, body []byte) (*Event, error) {
	if !typeOfData(contentType) {
		return nil, errors.New("Content-Type: want a media type")
	}
	e := &Event{ContentType: contentType, Data: body}
	a := attributes{e: e, seen: map[string]bool{}}
	for key, values := range h {
		name, ok := strings.CutPrefix(strings.ToLower(key), "ce-")
		if !ok {
			continue
		}
		if len(values) != 1 {
			return nil, fmt.Errorf("the header %s comes %d times", key, len(values))
		}
		value, err := unescape(values[0])
		if err != nil {
			return nil, fmt.Errorf("the header %s: %w", key, err)
		}
		if err := a.set(name, value); err != nil {
			return nil, err
		}
	}
	return e, a.complete()
}

func parseJSON(body []byte) (*Event, error) {
	members, err := object(body)
	if err != nil {
		return nil, fmt.Errorf("JSON: %w", err)
	}
	e := &Event{}
	a := attributes{e: e, seen: map[string]bool{}}
	var data, encoded json.RawMessage
	for _, m := range members {
		switch m.name {
		case "data":
			data = m.value
		case "data_base64":
			encoded = m.value
		case "datacontenttype":
			if e.ContentType, err = text(m.value); err != nil || !typeOfData(e.ContentType) {
				return nil, errors.New("datacontenttype: want a media type")
			}
		default:
			value, ok, err := scalar(m.value)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", m.name, err)
			}
			if !ok {
				continue // null is as if it were not there
			}
			if err := a.set(m.name, value); err != nil {
				return nil, err
			}
		}
	}
	if err := a.complete(); err != nil {
		return nil, err
	}
	switch {
	case data != nil && encoded != nil:
		return nil, errors.New("data and data_base64 exclude each other")
	case encoded != nil:
		s, err := text(encoded)
		if err != nil {
			return nil, errors.New("data_base64: want a string")
		}
		if e.Data, err = base64.StdEncoding.DecodeString(s); err != nil {
			return nil, fmt.Errorf("data_base64: %w", err)
		}
	case data != nil:
		if e.ContentType == "" {
			e.ContentType = "application/json"
		}
		if isJSON(e.ContentType) {
			e.Data = data
			break
		}
		s, err := text(data)
		if err != nil {
			return nil, fmt.Errorf("data: of %s, want a string, or data_base64", e.ContentType)
		}
		e.Data = []byte(s)
	}
	return e, nil
}

// attributes collects the context attributes of an event.
type attributes struct {
	e    *Event
	seen map[string]bool
}

func (a *attributes) set(name, value string) error {
	switch {
	case a.seen[name]:
		return fmt.Errorf("%s comes twice", name)
	case len(a.seen) >= maxAttributes:
		return fmt.Errorf("more than %d attributes", maxAttributes)
	case len(value) > maxValue:
		return fmt.Errorf("%.40s is over %d bytes", name, maxValue)
	case !utf8.ValidString(value):
		return fmt.Errorf("%.40s is not UTF-8", name)
	}
	a.seen[name] = true
	e := a.e
	switch name {
	case "specversion":
		if value != Version {
			return fmt.Errorf("specversion %.40q: want %s", value, Version)
		}
	case "id":
		e.ID = value
	case "source":
		e.Source = value
	case "type":
		e.Type = value
	case "subject":
		e.Subject = value
	case "dataschema":
		e.DataSchema = value
	case "data":
		return errors.New("data is no attribute: in binary mode it is the body")
	case "datacontenttype":
		return errors.New("datacontenttype is the header Content-Type in binary mode")
	case "time":
		t, err := time.Parse(time.RFC3339, value)
		if err != nil {
			return fmt.Errorf("time %.40q: want a time such as 2026-01-02T15:04:05Z", value)
		}
		e.Time = t
	default:
		if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
			return fmt.Errorf("attribute %.40q: a name has lower-case letters and digits", name)
		}
		if e.Extensions == nil {
			e.Extensions = map[string]string{}
		}
		e.Extensions[name] = value
	}
	return nil
}

// complete objects to what is missing.
func (a *attributes) complete() error {
	if !a.seen["specversion"] {
		return errors.New("specversion is missing")
	}
	for name, value := range map[string]string{"id": a.e.ID, "source": a.e.Source, "type": a.e.Type} {
		if value == "" {
			return errors.New(name + " is missing")
		}
	}
	return nil
}

// MarshalJSON is the event as a whole, with data as JSON or a string where it is
// that.
func (e *Event) MarshalJSON() ([]byte, error) {
	all := map[string]any{"specversion": Version, "id": e.ID, "source": e.Source, "type": e.Type}
	for name, value := range map[string]string{"subject": e.Subject, "dataschema": e.DataSchema, "datacontenttype": e.ContentType} {
		if value != "" {
			all[name] = value
		}
	}
	if !e.Time.IsZero() {
		all["time"] = e.Time.Format(time.RFC3339Nano)
	}
	for name, value := range e.Extensions {
		all[name] = value
	}
	switch {
	case e.Data == nil:
	case isJSON(e.ContentType) && json.Valid(e.Data):
		all["data"] = json.RawMessage(e.Data)
	case e.ContentType != "" && !isJSON(e.ContentType) && utf8.Valid(e.Data):
		all["data"] = string(e.Data)
	default:
		all["data_base64"] = e.Data
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(all); err != nil {
		return nil, err
	}
	return bytes.TrimSpace(b.Bytes()), nil
}

// typeOfData says whether s can go on as the media type of data, which is not
// looked into: a header's bytes need not be text, and JSON's must.
func typeOfData(s string) bool {
	return len(s) <= maxValue && strings.IndexFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r > '~' }) < 0
}

// isJSON says whether data of that media type is JSON.
func isJSON(contentType string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && (media == "application/json" || media == "text/json" || strings.HasSuffix(media, "+json"))
}
