package cloudevent

import (
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"
)

func header(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

func TestParse(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, tc := range []struct {
		name string
		h    http.Header
		body string
		want Event
	}{
		{"binary", header("Content-Type", "text/plain; charset=utf-8", "ce-specversion", "1.0", "ce-id", "A 1", "ce-source", "/s%20%25", "CE-Type", "reboot", "ce-subject", "Euro%20%E2%82%AC", "ce-time", "2026-01-02T03:04:05Z", "ce-ext1", "x"), "now",
			Event{ID: "A 1", Source: "/s %", Type: "reboot", Subject: "Euro €", Time: at, ContentType: "text/plain; charset=utf-8", Data: []byte("now"), Extensions: map[string]string{"ext1": "x"}}},
		{"JSON", header("Content-Type", "application/cloudevents+json; charset=UTF-8"), `{"specversion":"1.0","id":"1","source":"s","type":"t","n":7,"b":true,"gone":null,"data":{"a":[1, 2]}}`,
			Event{ID: "1", Source: "s", Type: "t", ContentType: "application/json", Data: []byte(`{"a":[1, 2]}`), Extensions: map[string]string{"n": "7", "b": "true"}}},
		{"a string that is JSON", header("Content-Type", JSON), `{"specversion":"1.0","id":"1","source":"s","type":"t","datacontenttype":"a/b+json","data":"x"}`,
			Event{ID: "1", Source: "s", Type: "t", ContentType: "a/b+json", Data: []byte(`"x"`)}},
		{"a string that is text", header("Content-Type", JSON), `{"specversion":"1.0","id":"1","source":"s","type":"t","datacontenttype":"text/xml","data":"<a/>"}`,
			Event{ID: "1", Source: "s", Type: "t", ContentType: "text/xml", Data: []byte("<a/>")}},
		{"base64", header("Content-Type", JSON), `{"specversion":"1.0","id":"1","source":"s","type":"t","dataschema":"u:x","data_base64":"AP8="}`,
			Event{ID: "1", Source: "s", Type: "t", DataSchema: "u:x", Data: []byte{0, 255}}},
		{"nothing", header("Content-Type", JSON), ` {"specversion":"1.0","id":"1","source":"s","type":"t"} `, Event{ID: "1", Source: "s", Type: "t"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Parse(tc.h, []byte(tc.body))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(*got, tc.want) {
				t.Errorf("got  %+v\nwant %+v", *got, tc.want)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	structured := header("Content-Type", JSON)
	event := func(more string) string { return `{"specversion":"1.0","id":"1","source":"s","type":"t"` + more + `}` }
	for _, tc := range []struct {
		h          http.Header
		body, want string
		media      bool
	}{
		{header(), "", "not a CloudEvent", true},
		{header("Content-Type", "application/cloudevents-batch+json"), "[]", "batches are not taken", true},
		{header("Content-Type", "application/cloudevents+avro"), "", "avro is not taken", true},
		{header("Content-Type", JSON+"; charset=latin1"), event(""), "charset", true},
		{header("Content-Type", JSON+"; ;"), event(""), "Content-Type", true},
		{header("ce-specversion", "0.3", "ce-id", "1"), "", "want 1.0", false},
		{header("ce-specversion", "1.0", "ce-id", "1", "ce-source", "s"), "", "type is missing", false},
		{header("ce-specversion", "1.0", "ce-id", "1", "ce-id", "2"), "", "2 times", false},
		{header("ce-specversion", "1.0", "ce-id", "%4"), "", "percent", false},
		{header("ce-specversion", "1.0", "ce-id", "%zz"), "", "percent", false},
		{header("ce-specversion", "1.0", "ce-id", "%ff"), "", "UTF-8", false},
		{header("ce-specversion", "1.0", "ce-a_b", "1"), "", "attribute", false},
		{header("ce-specversion", "1.0", "ce-datacontenttype", "a/b"), "", "Content-Type", false},
		{header("ce-specversion", "1.0", "ce-data", "x"), "", "the body", false},
		{structured, "", "EOF", false},
		{structured, "[]", "want one object", false},
		{structured, event("") + "{}", "follows", false},
		{structured, `{"id":"1"}`, "specversion is missing", false},
		{structured, event(`,"id":"2"`), "twice", false},
		{structured, event(`,"data":1,"data_base64":""`), "exclude", false},
		{structured, event(`,"data_base64":"*"`), "data_base64", false},
		{structured, event(`,"data_base64":7`), "data_base64", false},
		{structured, event(`,"datacontenttype":"text/plain","data":7`), "want a string", false},
		{structured, event(`,"datacontenttype":7`), "datacontenttype", false},
		{structured, event(`,"datacontenttype":"té"`), "datacontenttype", false},
		{header("ce-specversion", "1.0", "ce-id", "1", "ce-source", "s", "ce-type", "t", "Content-Type", "t\xd2"), "", "Content-Type", false},
		{structured, event(`,"time":"noon"`), "time", false},
		{structured, event(`,"Ext":"x"`), "lower-case", false},
		{structured, event(`,"ext":{}`), "ext: want", false},
		{structured, event(`,"ext":1.5`), "32 bits", false},
		{structured, event(`,"ext":99999999999`), "32 bits", false},
		{structured, event(`,"ext":"` + strings.Repeat("x", maxValue+1) + `"`), "is over", false},
	} {
		_, err := Parse(tc.h, []byte(tc.body))
		media := (*TypeError)(nil)
		if err == nil || !strings.Contains(err.Error(), tc.want) || errors.As(err, &media) != tc.media {
			t.Errorf("%v %s: %v, want %q", tc.h, tc.body, err, tc.want)
		}
	}
}

// FuzzParse: what is parsed can be written, and is the same when it is read again.
func FuzzParse(f *testing.F) {
	f.Add(true, "", `{"specversion":"1.0","id":"1","source":"s","type":"t","n":7,"data":{"a":[1, 2]}}`)
	f.Add(true, "", `{"specversion":"1.0","id":"1","source":"s","type":"t","time":"2026-01-02T03:04:05.5+01:00","data_base64":"AP8="}`)
	f.Add(true, "", `{"specversion":"1.0","id":"1","source":"s","type":"t","datacontenttype":"text/plain","data":"x"}`)
	f.Add(false, "ce-specversion:1.0\nce-id:1\nce-source:a%20b\nce-type:t\nContent-Type:text/plain", "data")
	f.Fuzz(func(t *testing.T, structured bool, head, body string) {
		h := http.Header{}
		for line := range strings.SplitSeq(head, "\n") {
			if key, value, ok := strings.Cut(line, ":"); ok {
				h.Add(key, value)
			}
		}
		if structured {
			h.Set("Content-Type", JSON)
		}
		e, err := Parse(h, []byte(body))
		if err != nil {
			return
		}
		written, err := json.Marshal(e)
		if err != nil {
			t.Fatalf("%+v: %v", e, err)
		}
		again, err := Parse(header("Content-Type", JSON), written)
		if err != nil {
			t.Fatalf("%s: %v", written, err)
		}
		if again.ID != e.ID || again.Source != e.Source || again.Type != e.Type || again.Subject != e.Subject || !again.Time.Equal(e.Time) ||
			len(again.Extensions) != len(e.Extensions) || len(again.Data) != len(e.Data) && !isJSON(e.ContentType) {
			t.Fatalf("%+v became %+v", e, again)
		}
	})
}
