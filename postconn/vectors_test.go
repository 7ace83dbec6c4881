package postconn

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/internal/vectors"
)

// headVector is a request's head or an answer's, and what it says.
type headVector struct {
	Is      string   `json:"is"` // request or answer
	Lines   []string `json:"lines"`
	Refused string   `json:"refused,omitempty"` // why, with 400; what follows is absent then
	Locator string   `json:"locator,omitempty"`
	Plain   bool     `json:"plain,omitempty"` // no offset
	Offset  uint64   `json:"offset,omitempty"`
	Ack     uint64   `json:"ack,omitempty"`
	Fin     bool     `json:"fin,omitempty"`
	Poll    bool     `json:"poll,omitempty"`
	Wait    int      `json:"wait_seconds,omitempty"`
}

func TestHeadVectors(t *testing.T) {
	all := []headVector{}
	add := func(is string, lines ...string) {
		v := headVector{Is: is, Lines: lines}
		h, err := textproto.NewReader(bufio.NewReader(strings.NewReader(strings.Join(lines, "\r\n") + "\r\n\r\n"))).ReadMIMEHeader()
		if err != nil {
			t.Fatal(lines, err)
		}
		m, err := parseHead(http.Header(h))
		if err != nil {
			v.Refused = err.Error()
		} else {
			v.Locator, v.Plain, v.Offset, v.Ack, v.Fin, v.Poll, v.Wait = m.locator, m.plain, m.offset, m.ack, m.fin, m.poll, int(m.wait.Seconds())
		}
		all = append(all, v)
	}
	add("request", "Content-Type: application/atls", "Content-Length: 512")
	add("request", "Atls-Offset: 0", "Atls-Ack: 0", "Prefer: wait=20")
	add("request", "Cookie: theme=dark; atls=ABCDEFGH", "Atls-Offset: 517", "Atls-Ack: 1432")
	add("request", "Atls-Session: ABCDEFGH", "Atls-Offset: 517", "Atls-Ack: 1432", "Atls-Fin: 1")
	add("request", "Atls-Session: ABCDEFGH", "Cookie: atls=ABCDEFGH", "Prefer: respond-async, wait=3")
	add("request", "Atls-Session: ABCDEFGH", `Prefer: Wait="7"; x=1`)
	add("request", "Atls-Session: ABCDEFGH", "Prefer: wait=3600")
	add("request", "Atls-Session: ABCDEFGH", "Prefer: wait=soon")
	add("request", "Atls-Session: ABCDEFGH", "Atls-Offset: 4611686018427387903")
	add("request", "Atls-Session: ABCDEFGH", "Cookie: atls=OTHER")
	add("request", "Cookie: atls=")
	add("request", "Atls-Session: a/b")
	add("request", "Atls-Session: "+strings.Repeat("A", 129))
	add("request", "Atls-Offset: -1")
	add("request", "Atls-Offset: +1")
	add("request", "Atls-Offset: 4611686018427387904")
	add("request", "Atls-Offset: 1", "Atls-Offset: 1")
	add("request", "Atls-Ack: 0x10")
	add("request", "Atls-Fin: 0")
	add("answer", "Atls-Ack: 517", "Atls-Offset: 0", "Atls-Session: ABCDEFGH", "Set-Cookie: atls=ABCDEFGH; Path=/.well-known/atls; HttpOnly; Secure; SameSite=Strict")
	add("answer", "Atls-Ack: 600", "Atls-Offset: 1432", "Atls-Fin: 1")
	add("answer", "Atls-Ack: 600")
	vectors.Check(t, "post_heads", all)
}

// call is a request and its answer.
type call struct {
	What       string   `json:"what"`
	Request    []string `json:"request"`
	Body       string   `json:"body_hex"`
	Answer     []string `json:"answer"`
	AnswerBody string   `json:"answer_body_hex"`
}

var random = regexp.MustCompile(`(Atls-Session: |atls=)[A-Z2-7]{26}`)

const exampleLocator = "JBSWY3DPEHPK3PXPJBSWY3DPEH"

// caller sends requests as they are, each on a connection of its own.
type caller struct {
	t       *testing.T
	addr    string
	locator string
	calls   []call
}

func (c *caller) call(what, body string, lines ...string) {
	c.t.Helper()
	conn, err := net.Dial("tcp", c.addr)
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	request := append([]string{"POST /.well-known/atls HTTP/1.1", "Host: cloud.example"}, lines...)
	request = append(request, fmt.Sprintf("Content-Length: %d", len(body)))
	_, err = io.WriteString(conn, strings.ReplaceAll(strings.Join(request, "\r\n"), exampleLocator, c.locator)+"\r\n\r\n"+body)
	if err != nil {
		c.t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	var head []string
	length := 0
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			c.t.Fatal(err)
		}
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			break
		}
		if l, ok := strings.CutPrefix(line, "Atls-Session: "); ok {
			c.locator = l
		}
		_, _ = fmt.Sscanf(line, "Content-Length: %d", &length)
		if !strings.HasPrefix(line, "Date: ") {
			head = append(head, random.ReplaceAllString(line, "${1}"+exampleLocator))
		}
	}
	answer := make([]byte, length)
	if _, err := io.ReadFull(r, answer); err != nil {
		c.t.Fatal(err)
	}
	c.calls = append(c.calls, call{what, request, hex.EncodeToString([]byte(body)), head, hex.EncodeToString(answer)})
}

// upper answers each read with the same letters in capitals, and ends with "end".
func upper(c *Conn, _ *http.Request) {
	defer func() { _ = c.Close() }()
	c.Established()
	b := make([]byte, 64)
	for {
		n, err := c.Read(b)
		if err != nil || string(b[:n]) == "end" {
			return
		}
		if _, err := c.Write(bytes.ToUpper(b[:n])); err != nil {
			return
		}
	}
}

// In place of the inner TLS there is a service that answers in capitals.
func TestExchangeVectors(t *testing.T) {
	h := NewHandler(&HandlerOptions{Accept: upper})
	srv := httptest.NewServer(h)
	defer srv.Close()
	defer func() { _ = h.Close() }()
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	typ := "Content-Type: application/atls"
	with := []string{typ, "Cookie: atls=" + exampleLocator}
	at := func(offset, ack int, more ...string) []string {
		return append([]string{typ, "Atls-Session: " + exampleLocator, fmt.Sprint("Atls-Offset: ", offset), fmt.Sprint("Atls-Ack: ", ack)}, more...)
	}
	c := &caller{t: t, addr: u.Host}
	c.call("plain client: the first request names no session, its answer does", "hello", typ)
	c.call("the next names it, and says by coming that the answer before it arrived", "world", with...)
	c.call("nothing to send: an empty body asks for what there is, here nothing within the second", "", with...)
	c.call("the service ends: all of its bytes have been given", "end", with...)
	c.call("the end is repeated for half a minute, then the session is unknown", "", with...)

	c.call("client with offsets: the first request", "hello", typ, "Atls-Offset: 0", "Atls-Ack: 0", "Prefer: wait=20")
	c.call("bytes alone, not asking for any: answered at once", "wor", at(5, 5)...)
	c.call("the same again, as its answer was lost: nothing is taken twice", "wor", at(5, 5)...)
	c.call("a request that has overtaken the one before it: the Ack says where to go on", "d", at(9, 5)...)
	c.call("asking from where the client is: what was not acknowledged comes again", "", at(8, 5, "Prefer: wait=20")...)
	c.call("and again until it is acknowledged", "", at(8, 5, "Prefer: wait=20")...)
	c.call("the client ends", "", at(8, 8, "Atls-Fin: 1")...)
	c.call("a session that does not exist", "", typ, "Atls-Session: NEVER")
	c.call("another content type", "x", "Content-Type: text/plain")
	c.call("an acknowledgement without a session", "x", typ, "Atls-Offset: 0", "Atls-Ack: 7")
	vectors.Check(t, "post_exchange", c.calls)

	var b strings.Builder
	for _, e := range c.calls[:2] {
		fmt.Fprintf(&b, "%s\n\n(%s)\n\n", strings.Join(e.Request, "\n"), text(e.Body))
		fmt.Fprintf(&b, "    %s\n\n    (%s)\n\n", strings.Join(e.Answer, "\n    "), text(e.AnswerBody))
	}
	vectors.Document(t, "post", b.String())
	b.Reset()
	for _, e := range c.calls[5:12] {
		short := func(lines []string, body string) string {
			var keep []string
			for _, l := range lines {
				if strings.HasPrefix(l, "HTTP/1.1 ") {
					l = strings.TrimPrefix(l, "HTTP/1.1 ")
				} else if !strings.HasPrefix(l, "Atls-") && !strings.HasPrefix(l, "Prefer") || strings.HasPrefix(l, "Atls-Session") {
					continue
				}
				keep = append(keep, l)
			}
			if !strings.Contains(keep[0], "409") {
				keep = append(keep, fmt.Sprintf("%q", text(body)))
			}
			return strings.Join(keep, ", ")
		}
		fmt.Fprintf(&b, "%s\n  > %s\n  < %s\n", e.What, short(e.Request[1:], e.Body), short(e.Answer, e.AnswerBody))
	}
	vectors.Document(t, "offsets", b.String())
}

func text(s string) string {
	b, _ := hex.DecodeString(s)
	return string(b)
}
