//go:build e2e

package e2e

import (
	"net/http"
	"net/http/httputil"
	"strings"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/wsconn"
)

// ownEarly are boxes of our own, each of which does something else with what is
// sent early. Go's reverse proxy loses what has come before the answer, if it has.
var ownEarly = []box{
	{name: "Go's reverse proxy", plain: true, start: own(passing(nil))},
	{name: "a box that removes the upgrade", plain: true, carrier: "post", start: own(reverse(func(pass *httputil.ReverseProxy) http.Handler { return noUpgrade(pass) }))},
	{name: "a box that answers 101, then nothing", plain: true, carrier: "post",
		start: own(toUpgrades(func(w http.ResponseWriter, r *http.Request) { silent(w, r, wsconn.Subprotocol) }))},
}

// own is a box without a program.
func own(start func(*testing.T, *site) hop) func(*testing.T, *site, string) hop {
	return func(t *testing.T, s *site, _ string) hop { return start(t, s) }
}

// TestEarlyHelloThroughBoxes: whatever a box does with what is sent early, the
// device gets its session, and a signal through it.
func TestEarlyHelloThroughBoxes(t *testing.T) {
	for _, b := range append(ownEarly, boxes...) {
		if strings.Contains(b.name, "POST only") || strings.Contains(b.name, "login") || strings.Contains(b.name, "password") {
			continue // nothing is early there, or nothing is different
		}
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			program := b.find(t)
			s := newSite(t).serve(!b.plain)
			h := b.start(t, s, program)
			h.args = append(h.args, "--early-hello")
			began := time.Now()
			startJob(s, h)
			d := s.ready()
			t.Logf("%s: %s after %s", b.name, d.Carrier, time.Since(began).Round(10*time.Millisecond))
			if b.carrier != "" && d.Carrier != b.carrier {
				t.Errorf("carrier %q, want %q", d.Carrier, b.carrier)
			}
			ack := must(t, strings.NewReader("early"), "push", "--admin", s.admin(), deviceID, "display", "-")
			if strings.TrimSpace(string(ack)) != "showing: early" {
				t.Errorf("ack %q", ack)
			}
		})
	}
}
