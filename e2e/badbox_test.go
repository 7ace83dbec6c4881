//go:build e2e

package e2e

import (
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/wsconn"
)

// diagnosisWithin bounds the time until a device says why it gets nowhere.
const diagnosisWithin = 30 * time.Second

// badBoxes are boxes of our own that are worse than real ones. Through each a
// carrier gets, or nothing, and then the device says words about why.
var badBoxes = []struct {
	name    string
	start   func(*testing.T, *site) hop
	tls     bool // the server has TLS of its own
	carrier string
	words   []string
}{
	{name: "answers 101, then nothing", carrier: "post",
		start: toUpgrades(func(w http.ResponseWriter, r *http.Request) { silent(w, r, wsconn.Subprotocol) })},
	{name: "answers 101, then closes", carrier: "post", start: toUpgrades(hangUp)},
	{name: "answers an upgrade with a login page", carrier: "post", start: toUpgrades(page(200))},
	{name: "sends an upgrade elsewhere", carrier: "post", start: toUpgrades(page(302, "Location", "https://portal.invalid/"))},
	{name: "forbids an upgrade", carrier: "post", start: toUpgrades(page(403))},
	{name: "closes after every reply", carrier: "post", start: reverse(closing)},
	{name: "cuts the first four answers", carrier: "post", start: cut(func(n int64) bool { return n <= 4 })},
	{name: "cuts every third answer", carrier: "post", start: cut(func(n int64) bool { return n%3 == 0 })},
	{name: "halves all answers", carrier: "post", start: reverse(halveAnswers)},
	{name: "sends all requests twice", carrier: "post", start: reverse(twice)},
	{name: "flips bits of WebSockets", carrier: "post", start: flip(true, false)},
	{name: "speaks HTTP/1.0, buffers and cuts what is held", carrier: "post", start: reverse(old)},

	{name: "answers everything with a login page", start: toAll(page(200)), words: []string{"a page answers", "portal", "browser"}},
	{name: "answers everything with 511", start: toAll(page(511)), words: []string{"a page answers", "portal", "browser"}},
	{name: "sends everything elsewhere", start: toAll(page(302, "Location", "https://portal.invalid/login")), words: []string{"portal.invalid", "a portal", "browser"}},
	{name: "forbids everything", start: toAll(page(403)), words: []string{"403", "forbids", "owner of the network"}},
	{name: "reaches nothing", start: toAll(page(502)), words: []string{"502", "behind it does not"}},
	{name: "flips bits of everything", start: flip(true, true), words: []string{"changes what it carries", "no session is made", "as it is"}},
	{name: "takes connections and says nothing", start: mute, words: []string{"no answer", "firewall"}},
	{name: "swallows everything", start: toAll(swallow), words: []string{"no session", "in time", "hold back"}},
	{name: "halves all requests", start: reverse(halveRequests), words: []string{"in time", "hold back"}},
	{name: "cuts every answer", start: cut(func(int64) bool { return true }), words: []string{"removes the WebSocket upgrade", "cuts the answers short"}},
}

// TestThroughBadBoxesOrSaysWhyNot is the main job through each bad box, or the
// diagnosis.
func TestThroughBadBoxesOrSaysWhyNot(t *testing.T) {
	for _, b := range badBoxes {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t).serve(b.tls)
			h := b.start(t, s)
			if b.carrier == "" {
				begin := time.Now()
				run(t, nil, s.deviceArgs(h.url, "--once")...).fails(t, 1, b.words...)
				if took := time.Since(begin); took > diagnosisWithin {
					t.Errorf("it took %s to say so", took)
				}
				return
			}
			j := startJob(s, h)
			if d := s.ready(); d.Carrier != b.carrier {
				t.Errorf("carrier %q, want %q", d.Carrier, b.carrier)
			}
			j.do()
		})
	}
}

// TestSessionOutlivesItsConnections: a box resets each TCP connection when it
// is three seconds old. The WebSocket dies of it, a session over POST does not.
func TestSessionOutlivesItsConnections(t *testing.T) {
	t.Parallel()
	s := newSite(t).serve(true)
	var resets atomic.Int64
	addr := accept(t, nil, func(c net.Conn) {
		to, err := net.Dial("tcp", s.addr)
		if err != nil {
			return
		}
		kill := time.AfterFunc(3*time.Second, func() {
			resets.Add(1)
			_ = c.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
			_ = to.Close()
		})
		defer kill.Stop()
		_ = client.Splice(c, to)
	})
	j := startJob(s, hop{url: "wss://" + addr + path})
	s.listed(func(d listed) bool { return d.Carrier == "websocket" })
	begun := s.listed(func(d listed) bool { return d.Carrier == "post" })
	j.do()
	for n, ctx := resets.Load(), bounded(t); resets.Load() < n+2; {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal("the box resets nothing")
		}
	}
	j.do()
	if d := s.ready(); d.Session != begun.Session {
		t.Errorf("session %s, want still %s", d.Session, begun.Session)
	}
}

// hangUp upgrades to a WebSocket and closes the connection.
func hangUp(w http.ResponseWriter, r *http.Request) {
	c, err := wsconn.Accept(w, r, nil)
	if err == nil {
		_ = c.Close()
	}
}

// mute takes connections.
func mute(t *testing.T, _ *site) hop {
	return hop{url: "wss://" + accept(t, nil, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }) + path}
}

// swallow upgrades and takes bodies, and answers neither.
func swallow(w http.ResponseWriter, r *http.Request) {
	if isUpgrade(r) {
		silent(w, r, wsconn.Subprotocol)
		return
	}
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}
