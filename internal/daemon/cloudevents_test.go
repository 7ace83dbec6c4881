package daemon

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/daemon/cloudevent"
)

func TestACloudEventIsASignal(t *testing.T) {
	s := start(t, nil)
	mux := new(client.Mux)
	handled := 0
	mux.OnSignal("com.example.set", func(_ context.Context, sig client.Signal) (string, error) {
		handled++
		return sig.ContentType + " " + string(sig.Data), nil
	})
	s.connect("d-1", mux)
	structured := http.Header{"Content-Type": {cloudevent.JSON}}
	binary := http.Header{"Content-Type": {"text/plain"}, "ce-specversion": {"1.0"}, "ce-id": {"A"}, "ce-source": {"/x"}, "ce-type": {"com.example.set"}, "ce-subject": {"d-1"}}
	event := func(id, subject, more string) string {
		return fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"/x","type":"com.example.set","subject":%q%s}`, id, subject, more)
	}
	soon, past := time.Now().Add(time.Hour).Format(time.RFC3339), time.Now().Add(-time.Hour).Format(time.RFC3339)
	for _, tc := range []struct {
		name   string
		h      http.Header
		body   string
		status int
		want   string // state and text
	}{
		{"binary", binary, "now", 200, "acked: text/plain now"},
		{"the same again", binary, "now", 200, "acked: text/plain now"},
		{"structured", structured, event("B", "device:d-1", `,"data":{"a":1},"expirytime":"`+soon+`"`), 200, `acked: application/json {"a":1}`},
		{"base64", structured, event("C", "d-1", `,"datacontenttype":"x/y","data_base64":"`+base64.StdEncoding.EncodeToString([]byte("raw"))+`"`), 200, "acked: x/y raw"},
		{"offline", structured, event("D", "absent", ""), 202, "queued: " + neverSeen},
		{"over", structured, event("E", "d-1", `,"expirytime":"`+past+`"`), 410, "expired: its expirytime is over: it was not sent"},
		{"no time", structured, event("E", "d-1", `,"expirytime":"soon"`), 400, "failed: expirytime: want a time such as 2026-01-02T15:04:05Z"},
		{"no subject", structured, event("F", "", ""), 400, "failed: the subject is missing: want a device's id, group:NAME or all"},
		{"a batch", http.Header{"Content-Type": {"application/cloudevents-batch+json"}}, "[]", 415, "failed: batches are not taken"},
		{"something else", http.Header{"Content-Type": {"application/json"}}, "{}", 415, "failed: not a CloudEvent"},
		{"malformed", structured, "{", 400, "failed: CloudEvent: JSON"},
		{"too much data", structured, event("G", "d-1", `,"data":"`+strings.Repeat("x", admin.MaxData)+`"`), 413, "failed: a signal's data is at most 64 KiB"},
		{"too much", structured, strings.Repeat(" ", maxCloudEvent+1), 413, "failed: an event is at most 256 KiB"},
		{"no group", structured, event("H", "group:nosuch", ""), 400, "failed: there is no group"},
	} {
		resp, body := s.raw(http.MethodPost, "/v1/events", tc.h, tc.body)
		var o admin.Outcome
		if err := json.Unmarshal([]byte(body), &o); err != nil || resp.StatusCode != tc.status || !strings.HasPrefix(o.String(), tc.want) {
			t.Errorf("%s: %s %s", tc.name, resp.Status, body)
		}
	}
	if handled != 3 {
		t.Errorf("handled %d times", handled)
	}
	resp, body := s.raw(http.MethodPost, "/v1/events?timeout=10s", structured, event("I", "group:both", ""))
	lines := strings.Split(strings.TrimSpace(body), "\n")
	var end admin.Progress
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &end); err != nil || resp.StatusCode != 200 || end.Summary == nil || end.Summary.Counts[admin.Acked] != 1 || end.Summary.Counts[admin.Queued] != 1 {
		t.Errorf("group: %s %s", resp.Status, body)
	}
}

func TestACloudEventIsHeldToTheRules(t *testing.T) {
	s := startWith(t, func(cfg *config.Server, _ string) {
		cfg.Authorization.Operators = []config.OperatorRule{{Who: []string{"local"}, May: []string{"signal"}, Devices: []string{"d-*"}}}
	})
	for subject, want := range map[string]int{"d-9": 202, "e-1": 403, "all": 403, "group:both": 403, "device:all": 403} {
		body := fmt.Sprintf(`{"specversion":"1.0","id":"1","source":"/x","type":"t","subject":%q}`, subject)
		if resp, text := s.raw(http.MethodPost, "/v1/events", http.Header{"Content-Type": {cloudevent.JSON}}, body); resp.StatusCode != want {
			t.Errorf("%s: %s %s", subject, resp.Status, text)
		}
	}
}
