//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"strings"
)

// hostileRequests are attacks before there is a WebSocket. What a stranger sends
// before it has made a request is not in the log at its default level: every
// scanner of the net would be.
var hostileRequests = []attack{
	{name: "outer: silence", at: tcp, do: func(*foe) {}, ends: headerTime},
	{name: "outer: garbage", at: tcp, send: strings.Repeat("garbage ", 100), ends: atOnce},
	{name: "outer: plain HTTP", at: tcp, send: upgradeRequest(), ends: atOnce, answer: []string{"HTTP/1.0 400", "HTTPS server"}},
	{name: "outer: half a record", at: tcp, send: "\x16\x03\x01\x02\x00\x01\x00\x01", ends: headerTime},
	{name: "outer: record of 65535 bytes", at: tcp, send: "\x16\x03\x01\xff\xff" + strings.Repeat("\x00", 65535), ends: atOnce},
	{name: "outer: a ClientHello byte by byte", at: tcp, do: func(f *foe) { loris(string(helloRecord(f.T)), 1)(f) }, ends: headerTime},

	{name: "request: silence", at: outer, do: func(*foe) {}, ends: headerTime},
	{name: "request: half a header", at: outer, send: upgradeRequest()[:60], ends: headerTime},
	{name: "request: a header without end", at: outer, do: loris(upgradeRequest()[:60]+"\r\nX: "+strings.Repeat("x", 1000), 1), ends: headerTime},
	{name: "request: header lines without end", at: outer, do: endless("GET "+path+" HTTP/1.1\r\nHost: x\r\n", "X-Filler: "+strings.Repeat("x", 1000)+"\r\n", 64<<10), ends: atOnce, answer: []string{"431"}},
	{name: "request: one line without end", at: outer, do: endless("GET /", strings.Repeat("x", 4096), 1<<20), ends: atOnce, answer: []string{"431"}},
	{name: "request: garbage", at: outer, send: "\x00\x01\x02\xff\xfe\r\n\r\n", ends: atOnce, answer: []string{"400"}},
	{name: "request: HTTP/2 preface", at: outer, send: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ends: atOnce, not: []string{"101 "}},
	{name: "request: HTTP/1.0 and an upgrade", at: outer, send: upgradeRequest("GET " + path + " HTTP/1.0"), ends: headerTime, answer: []string{"426 Upgrade Required", "urn:atls-ws:upgrade-required"}, says: []string{"connection refused", "answered 426"}},
	{name: "request: another path", at: outer, do: alone(upgradeRequest("GET /admin HTTP/1.1", "Connection: close")), ends: atOnce, answer: []string{"404"}},
	{name: "request: a path that climbs", at: outer, do: alone(upgradeRequest("GET /.well-known/../.well-known/atls HTTP/1.1", "Connection: close")), ends: atOnce, not: []string{"101 "}},

	{name: "smuggling: a body by Content-Length", at: outer, send: upgradeRequest("Content-Length: "+smuggledLength) + smuggled, ends: atOnce, answer: []string{"400 Bad Request", "has a body"}, not: twoAnswers, says: []string{"connection refused", "has a body"}},
	{name: "smuggling: a chunked body", at: outer, send: upgradeRequest("Transfer-Encoding: chunked") + "22\r\n" + smuggled + "\r\n0\r\n\r\n", ends: atOnce, answer: []string{"400 Bad Request", "has a body"}, not: twoAnswers, says: []string{"connection refused", "has a body"}},
	{name: "smuggling: both", at: outer, send: upgradeRequest("Content-Length: 5", "Transfer-Encoding: chunked") + "0\r\n\r\n" + smuggled, ends: atOnce, answer: []string{"400"}, not: twoAnswers},
	{name: "smuggling: two lengths", at: outer, send: upgradeRequest("Content-Length: 0", "+Content-Length: "+smuggledLength) + smuggled, ends: atOnce, answer: []string{"400"}, not: twoAnswers},
	{name: "smuggling: a length that is none", at: outer, send: upgradeRequest("Content-Length: +0") + smuggled, ends: atOnce, answer: []string{"400"}, not: twoAnswers},
	{name: "smuggling: an unknown coding", at: outer, send: upgradeRequest("Transfer-Encoding: xchunked") + smuggled, ends: atOnce, answer: []string{"HTTP/1.1 501"}, not: twoAnswers},
	{name: "smuggling: a space before the colon", at: outer, send: upgradeRequest("Transfer-Encoding : chunked") + smuggled, ends: atOnce, answer: []string{"400"}, not: twoAnswers},
	{name: "smuggling: a folded line", at: outer, send: upgradeRequest("Transfer-Encoding:\r\n chunked") + smuggled, ends: atOnce, answer: []string{"400"}, not: twoAnswers},
	{name: "smuggling: two hosts", at: outer, send: upgradeRequest("+Host: other.example"), ends: atOnce, answer: []string{"400"}, not: []string{"101 "}},
	{name: "smuggling: a NUL in a value", at: outer, send: upgradeRequest("+X: a\x00b"), ends: atOnce, answer: []string{"400"}, not: []string{"101 "}},
	{name: "smuggling: a request behind the upgrade", at: outer, send: upgradeRequest() + smuggled, ends: atOnce, answer: []string{"101 Switching"}, not: twoAnswers, says: []string{"connection refused"}},
	{name: "smuggling: a request behind a refused one", at: outer, send: upgradeRequest("Sec-WebSocket-Version: 8", "Content-Length: "+smuggledLength) + smuggled, ends: atOnce, answer: []string{"400"}, not: twoAnswers},
	{name: "smuggling: an upgrade in a body of POST", at: outer, send: request([]string{"POST " + path + " HTTP/1.1", "Host: x", "Content-Type: text/plain", "Connection: close"}, "Content-Length: "+fmt.Sprint(len(upgradeRequest()))) + upgradeRequest(), ends: atOnce, answer: []string{"415"}, not: []string{"101 "}},

	{name: "browser: an upgrade of a page", at: outer, do: alone(upgradeRequest("Origin: https://evil.example", "Cookie: atls=JBSWY3DPEHPK3PXPJBSWY3DPEH")), answer: []string{"403 Forbidden", "origin is not allowed"}, not: []string{"101 ", "Access-Control"}, says: []string{"connection refused", "403", "origin"}},
	{name: "browser: an upgrade of a page of ours", at: outer, do: alone(upgradeRequest("Origin: https://cloud.example")), answer: []string{"403 Forbidden", "origin is not allowed"}, says: []string{"connection refused", "origin"}},
	{name: "browser: an upgrade of a sandbox", at: outer, do: alone(upgradeRequest("Origin: null")), answer: []string{"403 Forbidden", "origin is not allowed"}, says: []string{"connection refused", "origin"}},
	{name: "browser: two origins", at: outer, do: alone(upgradeRequest("Origin: ", "+Origin: https://evil.example")), answer: []string{"403 Forbidden", "origin is not allowed"}, says: []string{"connection refused", "origin"}},
	{name: "browser: asks before it posts", at: outer, send: request([]string{"OPTIONS " + path + " HTTP/1.1", "Host: x", "Origin: https://evil.example", "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: content-type", "Connection: close"}), ends: atOnce, answer: []string{"405 Method Not Allowed"}, not: []string{"Access-Control-Allow"}},
	{name: "browser: posts without asking", at: outer, send: request([]string{"POST " + path + " HTTP/1.1", "Host: x", "Origin: https://evil.example", "Content-Type: text/plain", "Content-Length: 1", "Connection: close"}) + "x", ends: atOnce, answer: []string{"415 Unsupported"}, not: []string{"Set-Cookie", "Access-Control-Allow"}},

	{name: "subprotocol: another", at: outer, send: upgradeRequest("Sec-WebSocket-Protocol: mqtt"), ends: atOnce, answer: []string{"101 Switching", "\x88", "\x03\xf0", "subprotocol must be atls.v1"}, not: []string{"Sec-Websocket-Protocol"}, says: []string{"connection refused", "mqtt"}},
	{name: "subprotocol: ours in capitals", at: outer, send: upgradeRequest("Sec-WebSocket-Protocol: ATLS.V1"), ends: atOnce, answer: []string{"101 Switching", "\x03\xf0"}, not: []string{"Sec-Websocket-Protocol"}, says: []string{"connection refused", "ATLS.V1"}},
	{name: "subprotocol: a line break", at: outer, send: upgradeRequest("Sec-WebSocket-Protocol: mqtt\rX-Forged: msg=hello"), ends: atOnce, not: []string{"X-Forged"}},
	{name: "subprotocol: nothing between commas", at: outer, send: upgradeRequest("Sec-WebSocket-Protocol: ,,,"), ends: atOnce, answer: []string{"101 Switching", "\x03\xf0"}, says: []string{"connection refused"}},
	{name: "subprotocol: 2,000 others", at: outer, send: upgradeRequest("Sec-WebSocket-Protocol: " + strings.Repeat("mqtt, ", 2000)), ends: atOnce, answer: []string{"101 Switching", "\x03\xf0"}, says: []string{"connection refused"}},
}

// smuggled is a request that must not be answered.
const (
	smuggled       = "HEAD / HTTP/1.1\r\nHost: smuggled\r\n\r\n"
	smuggledLength = "35"
)

var twoAnswers = []string{"\r\nHTTP/1.1 ", "}\nHTTP/1.1 ", "404 Not Found"}

// loris sends the beginning of a text and goes on byte by byte. The server must
// end that before the text does.
func loris(text string, from int) func(*foe) {
	return func(f *foe) {
		f.send(text[:from])
		stop := f.drain()
		defer stop()
		ctx := bounded(f.T)
		for rest := text[from:]; f.send(rest[:1]); rest = rest[1:] {
			if pause(ctx); len(rest) == 1 || ctx.Err() != nil {
				f.Errorf("the server has taken %d bytes one by one", len(text)-len(rest))
				return
			}
		}
	}
}

// endless sends a beginning, and then the same again until a number of bytes.
func endless(begin, again string, bytes int) func(*foe) {
	return func(f *foe) {
		stop := make(chan struct{})
		go func() { // the answer may come before all is sent
			defer close(stop)
			_, _ = io.WriteString(f.io, begin+strings.Repeat(again, bytes/len(again)))
		}()
		f.Cleanup(func() { <-stop })
	}
}

// alone sends a request and no more: the answer is all that comes.
func alone(request string) func(*foe) { return func(f *foe) { f.send(request) } }
