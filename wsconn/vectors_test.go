package wsconn

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/internal/vectors"
)

// wsFrame is a WebSocket frame of the example.
type wsFrame struct {
	From string `json:"from"`
	What string `json:"what"`
	Hex  string `json:"hex"`
}

// upgradeVector is a request, its answer's head, and the frames that follow a 101.
type upgradeVector struct {
	What    string    `json:"what"`
	Request []string  `json:"request"`
	Answer  []string  `json:"answer"`
	Frames  []wsFrame `json:"frames,omitempty"`
}

// frames of a connection that sends Hello back, with the mask of RFC 6455
// section 5.7.
var frames = []wsFrame{
	{"client", "a binary message, Hello, masked with 37fa213d", "828537fa213d7f9f4d5158"},
	{"server", "a binary message, Hello", "820548656c6c6f"},
	{"client", "a ping, empty", "898037fa213d"},
	{"server", "its pong", "8a00"},
	{"client", "close, 1000", "888237fa213d3412"},
	{"server", "close, 1000", "880203e8"},
}

func TestUpgradeVectors(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := Accept(w, r, &AcceptOptions{Origins: []string{"https://app.example"}})
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = c.Close() }()
			_, _ = io.Copy(c, c)
		}()
	}))
	defer srv.Close()
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	upgrade := []string{
		"GET /.well-known/atls HTTP/1.1", "Host: cloud.example", "Connection: Upgrade", "Upgrade: websocket",
		"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
	}
	with := func(lines ...string) []string { return append(upgrade[:len(upgrade):len(upgrade)], lines...) }
	const mustBe = "subprotocol must be atls.v1"
	all := []upgradeVector{
		{What: "an upgrade", Request: with("Sec-WebSocket-Protocol: atls.v1"), Frames: frames},
		{What: "among other subprotocols", Request: with("Sec-WebSocket-Protocol: chat, atls.v1")},
		{What: "no subprotocol: accepted", Request: upgrade},
		{What: "other subprotocols only: closed with 1008", Request: with("Sec-WebSocket-Protocol: chat"),
			Frames: []wsFrame{{"server", "close, 1008, " + mustBe, fmt.Sprintf("88%02x03f0%x", 2+len(mustBe), mustBe)}}},
		{What: "extensions are not taken up", Request: with("Sec-WebSocket-Protocol: atls.v1", "Sec-WebSocket-Extensions: permessage-deflate")},
		{What: "an Origin of the server's list", Request: with("Sec-WebSocket-Protocol: atls.v1", "Origin: https://app.example")},
		{What: "another Origin", Request: with("Sec-WebSocket-Protocol: atls.v1", "Origin: https://other.example")},
		{What: "a body", Request: with("Sec-WebSocket-Protocol: atls.v1", "Content-Length: 1")},
		{What: "what is left when a box removes the upgrade", Request: upgrade[:2]},
	}
	for i := range all {
		all[i].Answer = talk(t, u.Host, &all[i])
	}
	vectors.Check(t, "websocket", all)

	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n    %s\n\n", strings.Join(all[0].Request, "\n"), strings.Join(all[0].Answer, "\n    "))
	for _, f := range all[0].Frames {
		raw, _ := hex.DecodeString(f.Hex)
		fmt.Fprintf(&b, "%-8s%-36s %s\n", f.From, fmt.Sprintf("% x", raw), f.What)
	}
	vectors.Document(t, "websocket", b.String())
}

// talk sends a request as it is, checks the frames and returns the answer's head.
func talk(t *testing.T, addr string, v *upgradeVector) (head []string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, strings.Join(v.Request, "\r\n")+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(v.What, err)
		}
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			break
		}
		if !strings.HasPrefix(line, "Date: ") && !strings.HasPrefix(line, "Content-Length: ") {
			head = append(head, line)
		}
	}
	for _, f := range v.Frames {
		want, err := hex.DecodeString(f.Hex)
		if err != nil {
			t.Fatal(err)
		}
		if f.From == "client" {
			_, err = conn.Write(want)
		} else {
			got := make([]byte, len(want))
			if _, err = io.ReadFull(r, got); err == nil && string(got) != string(want) {
				t.Errorf("%s: %s: % x, want % x", v.What, f.What, got, want)
			}
		}
		if err != nil {
			t.Fatalf("%s: %s: %v", v.What, f.What, err)
		}
	}
	return head
}
