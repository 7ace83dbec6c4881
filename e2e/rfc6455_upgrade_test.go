//go:build e2e

package e2e

import (
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// upgradeRule is a sentence of RFC 6455, chapter 4 or 10, about the request: what
// is changed in a good one, and the statuses that the sentence allows.
type upgradeRule struct {
	section, name string
	changes       []string
	statuses      []int
	selects       string // the subprotocol, of a 101
}

// upgradeHeaders are what each status must come with.
var upgradeHeaders = map[int]map[string]string{
	101: {"Upgrade": "websocket", "Connection": "Upgrade"},
	426: {"Upgrade": "websocket", "Connection": "Upgrade", "Content-Type": "application/problem+json"},
}

const ours = "atls.v1"

var upgradeRules = []upgradeRule{
	{"4.1", "a good request", nil, []int{101}, ours},
	{"4.1", "other headers", []string{"+Cookie: a=b", "+Authorization: Basic x", "+User-Agent: x", "+X-Forwarded-For: ::1"}, []int{101}, ours},
	{"4.2.1 (1)", "POST", []string{"POST " + path + " HTTP/1.1", "Content-Length: 0"}, []int{400, 405, 415}, ""},
	{"4.2.1 (1)", "PUT", []string{"PUT " + path + " HTTP/1.1"}, []int{405}, ""},
	{"4.2.1 (1)", "HTTP/1.0", []string{"GET " + path + " HTTP/1.0"}, []int{426}, ""},
	{"4.2.1 (1)", "HTTP/2.0", []string{"GET " + path + " HTTP/2.0"}, []int{400, 426, 505}, ""},
	{"4.2.1 (1)", "an absolute URI", []string{"GET http://cloud.example" + path + " HTTP/1.1"}, []int{101}, ours},
	{"4.2.1 (1)", "a query", []string{"GET " + path + "?a=b HTTP/1.1"}, []int{101}, ours},
	{"4.2.1 (2)", "no Host", []string{"-Host"}, []int{400}, ""},
	{"4.2.1 (3)", "no Upgrade", []string{"-Upgrade"}, []int{426}, ""},
	{"4.2.1 (3)", "another Upgrade", []string{"Upgrade: h2c"}, []int{426}, ""},
	{"4.2.1 (3)", "an Upgrade that begins alike", []string{"Upgrade: websocket2"}, []int{426}, ""},
	{"4.2.1 (3)", "an Upgrade in capitals", []string{"Upgrade: WebSocket"}, []int{101}, ours},
	{"4.2.1 (3)", "an Upgrade among others", []string{"Upgrade: h2c, websocket"}, []int{101}, ours},
	{"4.2.1 (4)", "no Connection", []string{"-Connection"}, []int{426}, ""},
	{"4.2.1 (4)", "another Connection", []string{"Connection: keep-alive"}, []int{426}, ""},
	{"4.2.1 (4)", "a Connection among others", []string{"Connection: keep-alive, UPGRADE"}, []int{101}, ours},
	{"4.2.1 (4)", "a Connection in two lines", []string{"Connection: keep-alive", "+Connection: upgrade"}, []int{101}, ours},
	{"4.2.1 (5)", "no key", []string{"-Sec-WebSocket-Key"}, []int{400}, ""},
	{"4.2.1 (5)", "an empty key", []string{"Sec-WebSocket-Key: "}, []int{400}, ""},
	{"4.2.1 (5)", "a key that is no base64", []string{"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZ!=="}, []int{400}, ""},
	{"4.2.1 (5)", "a key of 15 bytes", []string{"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAA"}, []int{400}, ""},
	{"4.2.1 (5)", "a key of 17 bytes", []string{"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAAA="}, []int{400}, ""},
	{"4.2.1 (5)", "a key with spaces around", []string{"Sec-WebSocket-Key:   AAAAAAAAAAAAAAAAAAAAAA==  "}, []int{101}, ours},
	{"4.2.1 (5), 11.3.1", "two keys", []string{"+Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="}, []int{400}, ""},
	{"4.2.1 (6)", "no version", []string{"-Sec-WebSocket-Version"}, []int{400, 426}, ""},
	{"4.4", "version 8", []string{"Sec-WebSocket-Version: 8"}, []int{400, 426}, ""},
	{"4.4", "version 14", []string{"Sec-WebSocket-Version: 14"}, []int{400, 426}, ""},
	{"4.4", "version 013", []string{"Sec-WebSocket-Version: 013"}, []int{400, 426}, ""},
	{"4.4", "two versions", []string{"Sec-WebSocket-Version: 13, 8"}, []int{400, 426}, ""},
	{"4.2.1 (7), 10.2", "an Origin", []string{"Origin: https://cloud.example"}, []int{403}, ""},
	{"4.2.1 (8)", "no subprotocol", []string{"-Sec-WebSocket-Protocol"}, []int{101}, ""},
	{"4.2.1 (8)", "several subprotocols", []string{"Sec-WebSocket-Protocol: mqtt, atls.v1"}, []int{101}, ours},
	{"4.2.1 (8)", "several subprotocols in two lines", []string{"Sec-WebSocket-Protocol: mqtt", "+Sec-WebSocket-Protocol: atls.v1"}, []int{101}, ours},
	{"4.2.1 (8)", "other subprotocols", []string{"Sec-WebSocket-Protocol: mqtt"}, []int{101}, ""}, // and 1008: docs/PROTOCOL.md
	{"4.2.1 (9), 9.1", "extensions", []string{"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x-webkit-deflate-frame"}, []int{101}, ours},
	{"4.2.1 (9), 9.1", "an extension that is none", []string{"Sec-WebSocket-Extensions: ;;=\"\x01"}, []int{101, 400}, ours},
	{"4.2.1", "a body", []string{"Content-Length: 1"}, []int{400}, ""},
	{"4.2.1", "a body without bytes", []string{"Content-Length: 0"}, []int{101}, ours},
}

// rfcUpgrade are chapter 4, and 9.1 and 10.2.
func (a *arena) rfcUpgrade(t *testing.T) {
	all(t, upgradeRules, func(r upgradeRule) string { return r.section + " " + r.name }, func(t *testing.T, r upgradeRule) {
		w := dialTCP(t, a.addr).outerTLS(t)
		text := upgradeRequest(r.changes...)
		resp := w.ask(t, text)
		defer func() { _ = w.tcp.Close() }()
		if !slices.Contains(r.statuses, resp.StatusCode) {
			t.Fatalf("%s, want one of %d", resp.Status, r.statuses)
		}
		for k, want := range upgradeHeaders[resp.StatusCode] {
			if k == "Connection" && strings.Contains(text, "HTTP/1.0") {
				continue // the connection ends with the answer
			}
			if got := resp.Header.Values(k); len(got) != 1 || !strings.EqualFold(got[0], want) {
				t.Errorf("%s: %q, want %q", k, got, want)
			}
		}
		if ext := resp.Header.Values("Sec-WebSocket-Extensions"); len(ext) > 0 {
			t.Errorf("4.2.2: extensions %q are accepted", ext)
		}
		if strings.HasPrefix(r.section, "4.4") && resp.Header.Get("Sec-WebSocket-Version") != "13" {
			t.Errorf("4.2.2, 4.4: the answer does not say version 13: %v", resp.Header)
		}
		if resp.StatusCode == http.StatusSwitchingProtocols {
			upgraded(t, w, text, resp, r.selects)
		} else if resp.Header.Get("Sec-WebSocket-Accept") != "" {
			t.Error("a refusal with Sec-WebSocket-Accept")
		}
	})
}

// upgraded holds a 101 to 4.2.2 (5), and sees that a WebSocket follows.
func upgraded(t *testing.T, w *wire, request string, resp *http.Response, selects string) {
	t.Helper()
	_, key, _ := strings.Cut(request, "Sec-WebSocket-Key:")
	key, _, _ = strings.Cut(key, "\r\n")
	sum := sha1.Sum([]byte(strings.TrimSpace(key) + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	if got, want := resp.Header.Values("Sec-WebSocket-Accept"), base64.StdEncoding.EncodeToString(sum[:]); len(got) != 1 || got[0] != want {
		t.Errorf("Sec-WebSocket-Accept: %q, want %q", got, want)
	}
	if got := resp.Header.Values("Sec-WebSocket-Protocol"); fmt.Sprint(got) != "["+selects+"]" {
		t.Errorf("Sec-WebSocket-Protocol: %q, want %q", got, selects)
	}
	if selects == "" && strings.Contains(request, "Sec-WebSocket-Protocol") {
		rule{codes: []int{1008}}.check(t, w.react(rule{}))
		return
	}
	_, _ = w.Write(frame(fin|opPing, []byte(alivePing)))
	r := rule{last: alivePing}
	r.check(t, w.react(r))
}

// rfcLargestMessage are 5.2's eight bytes of length, and 10.4's limit, which is
// 128 KiB here. Both need a session, for before it the inner TLS limits more.
func (a *arena) rfcLargestMessage(t *testing.T) {
	for _, c := range []struct {
		size int
		rule rule
	}{
		{65536, rule{last: alivePing}},
		{128 << 10, rule{last: alivePing}},
		{128<<10 + 1, rule{codes: []int{1009}}},
	} {
		t.Run(fmt.Sprintf("%d bytes", c.size), func(t *testing.T) {
			f := &foe{T: t, a: a, device: a.newDevice(), w: dialTCP(t, a.addr)}
			f.climb(attack{at: muxed})
			f.c.keep = true
			const overhead = 5 + 1 + 16 + 12 // of a record and of yamux's frame
			for len(f.c.kept) < c.size {
				n := min(16000, c.size-len(f.c.kept))
				if rest := c.size - len(f.c.kept) - n; rest > 0 && rest < overhead {
					n -= overhead
				}
				f.send(mux(yData, 0, 99, strings.Repeat("x", n-overhead))) // of no stream: dropped
			}
			if len(f.c.kept) != c.size {
				t.Fatalf("%d bytes of records", len(f.c.kept))
			}
			_, _ = f.w.Write(message(f.c.kept))
			_, _ = f.w.Write(frame(fin|opPing, []byte(alivePing)))
			c.rule.check(t, f.w.react(c.rule))
			_ = f.w.tcp.Close()
		})
	}
}
