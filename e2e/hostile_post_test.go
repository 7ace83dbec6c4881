//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
)

// step is one POST and what the server must answer.
type step struct {
	headers []string // changes of postRequest; @ in them is the locator of the session
	body    string   // HELLO is a good first flight
	status  int
	ack     string // Atls-Ack of the answer, if it matters
	has     string // what the answer's body begins with
}

const (
	helloHere = "HELLO"
	handshake = "\x16\x03" // a record of the server's flight
)

// hostilePosts are peers that lie in the requests of the carrier for networks
// that pass no WebSocket.
var hostilePosts = []attack{
	{name: "post: a locator that is made up", at: outer, do: posts(
		step{[]string{"Cookie: atls=JBSWY3DPEHPK3PXPJBSWY3DPEH", "Atls-Offset: 0"}, "x", 404, "", ""},
		step{[]string{"Atls-Session: ../../etc/passwd", "Atls-Offset: 0"}, "x", 400, "", ""},
		step{[]string{"Atls-Session: " + strings.Repeat("A", 4096), "Atls-Offset: 0"}, "x", 400, "", ""},
		step{[]string{"Atls-Session: ", "Atls-Offset: 0"}, "x", 400, "", ""},
		step{[]string{"Cookie: atls=AAAA; atls=BBBB", "Atls-Offset: 0"}, "x", 400, "", ""})},
	{name: "post: two locators", at: outer, do: posts(
		step{[]string{"Atls-Offset: 0"}, helloHere, 200, "", handshake},
		step{[]string{"Atls-Session: @", "Cookie: atls=AAAA", "Atls-Offset: 0"}, "", 400, "", ""},
		step{[]string{"Atls-Session: @", "Cookie: atls=@", "Atls-Offset: 0"}, "", 200, "", ""}, theEnd)},
	{name: "post: the first request again and again", at: outer, do: posts(
		step{[]string{"Atls-Offset: 0"}, helloHere, 200, "", handshake},
		step{[]string{"Atls-Offset: 0"}, helloHere, 200, "", handshake}, // another session
		step{[]string{"Atls-Offset: 0"}, helloHere, 200, "", handshake}, theEnd)},
	{name: "post: bytes of a thief with the locator", at: outer, do: posts(
		step{[]string{"Atls-Offset: 0"}, helloHere, 200, "", handshake},
		step{[]string{"Atls-Session: @", "Atls-Offset: +0"}, "x", 400, "", ""},
		step{[]string{"Atls-Session: @", "Atls-Offset: 0"}, "forged", 200, "", ""},    // taken already: dropped
		step{[]string{"Atls-Session: @", "Atls-Offset: NEXT"}, "forged", 200, "", ""}, // breaks the handshake, and gives nothing
	), says: []string{"connection refused", "inner handshake"}},
	{name: "post: a gap", at: outer, do: posts(
		step{[]string{"Atls-Offset: 0"}, "", 200, "0", ""},
		step{[]string{"Atls-Session: @", "Atls-Offset: 1"}, "x", 409, "0", ""},
		step{[]string{"Atls-Session: @", "Atls-Offset: 4611686018427387903"}, "x", 409, "0", ""},
		step{[]string{"Atls-Session: @", "Atls-Offset: 4611686018427387904"}, "x", 400, "", ""},
		step{[]string{"Atls-Session: @", "Atls-Offset: 18446744073709551616"}, "x", 400, "", ""},
		step{[]string{"Atls-Session: @", "Atls-Offset: -1"}, "x", 400, "", ""},
		step{[]string{"Atls-Session: @", "Atls-Offset: 0x0"}, "x", 400, "", ""},
		step{[]string{"Atls-Session: @", "Atls-Offset: 0, 0"}, "x", 400, "", ""},
		step{[]string{"Atls-Session: @", "Atls-Offset: 0", "+Atls-Offset: 5"}, "x", 400, "", ""},
		step{[]string{"Atls-Session: @", "Atls-Offset: 0"}, helloHere, 200, "", ""}, theEnd)}, // unharmed
	{name: "post: an ack of what was not sent", at: outer, do: posts(
		step{[]string{"Atls-Offset: 0", "Atls-Ack: 1"}, "", 400, "", ""},
		step{[]string{"Atls-Offset: 0"}, helloHere, 200, "", handshake},
		step{[]string{"Atls-Session: @", "Atls-Offset: NEXT", "Atls-Ack: 100000"}, "", 400, "", ""},
		step{[]string{"Atls-Session: @", "Atls-Offset: NEXT", "Atls-Ack: 4611686018427387903"}, "", 400, "", ""},
		step{[]string{"Atls-Session: @", "Atls-Offset: NEXT", "Atls-Ack: 0", "Prefer: wait=0"}, "", 200, "", handshake}, theEnd)},
	{name: "post: an offset first, then none", at: outer, do: posts(
		step{[]string{"Atls-Offset: 0"}, helloHere, 200, "", handshake},
		step{[]string{"Atls-Session: @"}, "x", 400, "", ""}, theEnd)},
	{name: "post: an offset without a session", at: outer, do: posts(step{[]string{"Atls-Offset: 5"}, "x", 400, "", ""})},
	{name: "post: preferences that make no sense", at: outer, do: posts(
		step{[]string{"Atls-Offset: 0", "Prefer: wait=99999999999999999999"}, helloHere, 200, "", ""},
		step{[]string{"Atls-Session: @", "Atls-Offset: NEXT", "Prefer: wait=-5"}, "", 200, "", ""},
		step{[]string{"Atls-Session: @", "Atls-Offset: NEXT", `Prefer: ;;,=,wait="`}, "", 200, "", ""}, theEnd)},
	{name: "post: the end before the beginning", at: outer, do: posts(
		step{[]string{"Atls-Offset: 0", "Atls-Fin: 1"}, "", 200, "0", ""},
		step{[]string{"Atls-Offset: 0", "Atls-Fin: true"}, "", 400, "", ""})},
	{name: "post: garbage", at: outer, do: posts(step{[]string{"Atls-Offset: 0"}, strings.Repeat("garbage ", 1000), 200, "", ""}), says: []string{"connection refused", "TLS handshake"}},
	{name: "post: a first body of 16 KiB and a byte", at: outer, do: posts(step{[]string{"Atls-Offset: 0"}, strings.Repeat("x", 16<<10+1), 413, "", ""})},
	{name: "post: a later body of 64 KiB and a byte", at: outer, do: posts(
		step{[]string{"Atls-Offset: 0"}, helloHere, 200, "", ""},
		step{[]string{"Atls-Session: @", "Atls-Offset: NEXT"}, strings.Repeat("x", 64<<10+1), 413, "", ""})},

	{name: "post: 8 EiB announced", at: outer, send: postRequest("Content-Length: 9223372036854775807", "Connection: close") + "x", ends: atOnce, answer: []string{"413"}},
	{name: "post: chunks without end", at: outer, do: endless(postRequest("Transfer-Encoding: chunked"), "1000\r\n"+strings.Repeat("x", 4096)+"\r\n", 1<<20), ends: atOnce, answer: []string{"413"}},
	{name: "post: a chunk of 2^64 bytes", at: outer, send: postRequest("Transfer-Encoding: chunked") + "10000000000000000\r\nx", ends: bodyTime, answer: []string{"400"}},
	{name: "post: chunks of one byte", at: outer, do: endless(postRequest("Transfer-Encoding: chunked"), "1;"+strings.Repeat("x", 1000)+"\r\nx\r\n", 1<<20), ends: atOnce, answer: []string{"400"}},
	{name: "post: a body that does not come", at: outer, send: postRequest("Content-Length: 100") + "x", ends: bodyTime, answer: []string{"400", "cut"}},
	{name: "post: a body byte by byte", at: outer, do: loris(postRequest("Content-Length: 2000")+strings.Repeat("x", 2000), 1), ends: bodyTime},
	{name: "post: a body that is not waited for", at: outer, do: alone(postRequest("Content-Length: 1000000", "Expect: 100-continue")), ends: bodyTime, answer: []string{"413"}, not: []string{"100 Continue"}},
	{name: "post: compressed", at: outer, do: posts(step{[]string{"Atls-Offset: 0", "Content-Encoding: gzip"}, "\x1f\x8b\x08\x00", 200, "", ""}), says: []string{"connection refused"}},
	{name: "post: many polls of one session", at: outer, do: manyPolls},
}

// theEnd gives the session up, so that nothing is left of it.
var theEnd = step{[]string{"Atls-Session: @", "Atls-Offset: NEXT", "Atls-Fin: 1"}, "", 200, "", ""}

func postRequest(changes ...string) string {
	return request([]string{"POST " + path + " HTTP/1.1", "Host: cloud.example", "Content-Type: application/atls", "Atls-Offset: 0"}, changes...)
}

// posts sends requests one after the other, each over a connection of its own
// but the first.
func posts(steps ...step) func(*foe) {
	return func(f *foe) {
		var locator, next string
		w := f.w
		for i, s := range steps {
			if i > 0 {
				w = dialTCP(f.T, f.a.addr).outerTLS(f.T)
			}
			body := strings.Replace(s.body, helloHere, string(helloRecord(f.T)), 1)
			headers := append([]string{"-Atls-Offset", "Prefer: wait=1", fmt.Sprintf("Content-Length: %d", len(body))}, s.headers...)
			for j := range headers {
				headers[j] = strings.NewReplacer("@", locator, "NEXT", next).Replace(headers[j])
			}
			resp := w.ask(f.T, postRequest(headers...)+body)
			got, err := io.ReadAll(resp.Body)
			if resp.StatusCode != s.status || err != nil || !strings.HasPrefix(string(got), s.has) || s.ack != "" && resp.Header.Get("Atls-Ack") != s.ack {
				f.Errorf("step %d: %s, ack %q, %.200q, %v", i+1, resp.Status, resp.Header.Get("Atls-Ack"), got, err)
			}
			if l := resp.Header.Get("Atls-Session"); l != "" {
				locator = l
			}
			if resp.StatusCode == http.StatusOK {
				next = resp.Header.Get("Atls-Ack")
			}
			_ = w.tcp.Close()
		}
		f.w = w
	}
}

// manyPolls are held at most one at a time: a newer one releases the older.
func manyPolls(f *foe) {
	resp := f.w.ask(f.T, postRequest("Content-Length: 0"))
	poll := postRequest("Atls-Session: "+resp.Header.Get("Atls-Session"), "Content-Length: 0", "Prefer: wait=20")
	var polls []*wire
	for range 50 {
		w := dialTCP(f.T, f.a.addr).outerTLS(f.T)
		_, _ = io.WriteString(w, poll)
		polls = append(polls, w)
	}
	answered := make(chan bool)
	for _, w := range polls {
		go func() {
			_, err := http.ReadResponse(w.in, nil)
			answered <- err == nil
		}()
	}
	for range len(polls) - 1 {
		if !<-answered {
			f.Error("a poll is not answered")
		}
	}
	for _, w := range polls {
		_ = w.tcp.Close()
	}
	<-answered
}
