package postconn

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
)

// ask sends one request as it stands in the table: headers are "Key: value".
func ask(t *testing.T, url, method string, body int, headers ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(make([]byte, body)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", ContentType)
	for _, h := range headers {
		k, v, _ := strings.Cut(h, ": ")
		if k == "Content-Type" {
			req.Header.Set(k, v)
		} else {
			req.Header.Add(k, v)
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	got, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.ContentLength != int64(len(got)) {
		t.Errorf("Content-Length %d of %d bytes", resp.ContentLength, len(got))
	}
	return resp, string(got)
}

func TestFirstAnswerNamesTheSession(t *testing.T) {
	srv, _, conns := listen(t, false)
	resp, _ := ask(t, srv.URL+"/.well-known/atls", "POST", 1, "Atls-Offset: 0")
	c := resp.Cookies()
	if resp.StatusCode != 200 || len(c) != 1 || resp.Header.Get("Atls-Session") != c[0].Value {
		t.Fatalf("%d %v", resp.StatusCode, resp.Header)
	}
	if c := c[0]; c.Name != "atls" || len(c.Value) < 22 || c.Path != "/.well-known/atls" || !c.HttpOnly || !c.Secure || c.SameSite != http.SameSiteStrictMode {
		t.Errorf("%+v", c)
	}
	for k, want := range map[string]string{"Content-Type": ContentType, "Cache-Control": "no-store, no-transform", "Atls-Ack": "1", "Atls-Offset": "0"} {
		if got := resp.Header.Get(k); got != want {
			t.Errorf("%s: %q", k, got)
		}
	}
	_ = (<-conns).Close()
}

func TestStatuses(t *testing.T) {
	srv, _, conns := listen(t, false)
	open := func(headers ...string) (id string, s *Conn) {
		resp, _ := ask(t, srv.URL, "POST", 1, headers...)
		return resp.Header.Get("Atls-Session"), <-conns
	}
	id, s := open("Atls-Offset: 0") // one byte up
	_, _ = io.WriteString(s, "down")
	plain, p := open()
	defer func() { _ = s.Close(); _ = p.Close() }()
	session := "Atls-Session: " + id
	for _, tt := range []struct {
		name    string
		method  string
		body    int
		headers []string
		status  int
	}{
		{"method", "GET", 0, nil, 405},
		{"delete", "DELETE", 0, []string{session}, 405},
		{"type", "POST", 0, []string{"Content-Type: text/plain"}, 415},
		{"no type", "POST", 0, []string{"Content-Type: "}, 415},
		{"first body", "POST", MaxFirstBody + 1, nil, 413},
		{"later body", "POST", MaxBody + 1, []string{session, "Atls-Offset: 1"}, 413},
		{"unknown", "POST", 0, []string{"Atls-Session: AAAA"}, 404},
		{"unknown cookie", "POST", 0, []string{"Cookie: atls=AAAA"}, 404},
		{"different", "POST", 0, []string{session, "Cookie: atls=AAAA"}, 400},
		{"malformed session", "POST", 0, []string{"Atls-Session: a b"}, 400},
		{"long session", "POST", 0, []string{"Atls-Session: " + strings.Repeat("a", 200)}, 400},
		{"offset without session", "POST", 0, []string{"Atls-Offset: 1"}, 400},
		{"ack without session", "POST", 0, []string{"Atls-Offset: 0", "Atls-Ack: 1"}, 400},
		{"malformed offset", "POST", 0, []string{session, "Atls-Offset: x"}, 400},
		{"negative offset", "POST", 0, []string{session, "Atls-Offset: -1"}, 400},
		{"two offsets", "POST", 0, []string{session, "Atls-Offset: 1", "Atls-Offset: 1"}, 400},
		{"overflow", "POST", 1, []string{session, "Atls-Offset: 18446744073709551615"}, 400},
		{"malformed ack", "POST", 0, []string{session, "Atls-Offset: 1", "Atls-Ack: "}, 400},
		{"ack of what was not sent", "POST", 0, []string{session, "Atls-Offset: 1", "Atls-Ack: 1"}, 400},
		{"malformed fin", "POST", 0, []string{session, "Atls-Offset: 1", "Atls-Fin: 0"}, 400},
		{"gap", "POST", 1, []string{session, "Atls-Offset: 2"}, 409},
		{"no offset although the first had one", "POST", 0, []string{session}, 400},
		{"offset although the first had none", "POST", 0, []string{"Cookie: atls=" + plain, "Atls-Offset: 0"}, 400},
		{"cookie only", "POST", 0, []string{"Cookie: a=b; atls=" + id, "Atls-Offset: 1"}, 200},
		{"both", "POST", 0, []string{session, "Cookie: atls=" + id, "Atls-Offset: 1"}, 200},
		{"parameter", "POST", 0, []string{session, "Atls-Offset: 1", "Content-Type: application/ATLS; q=1"}, 200},
		{"bytes that are there", "POST", 1, []string{session, "Atls-Offset: 0"}, 200},
		{"poll", "POST", 0, []string{session, "Atls-Offset: 1", "Prefer: wait=0"}, 200},
		{"ack", "POST", 0, []string{session, "Atls-Offset: 1", "Atls-Ack: 2"}, 200},
		{"replay", "POST", 0, []string{session, "Atls-Offset: 1", "Prefer: wait=20"}, 200},
		{"largest body", "POST", MaxBody - 1, []string{session, "Atls-Offset: 1"}, 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, body := ask(t, srv.URL, tt.method, tt.body, tt.headers...)
			if resp.StatusCode != tt.status {
				t.Fatalf("%d %s", resp.StatusCode, body)
			}
			switch {
			case tt.status == 405 && resp.Header.Get("Allow") != "POST",
				tt.status == 409 && resp.Header.Get("Atls-Ack") != "1",
				tt.status == 200 && resp.Header.Get("Atls-Ack") != strconv.Itoa(1+tt.body) && tt.name != "bytes that are there",
				tt.name == "poll" && body != "down",
				tt.name == "replay" && (body != "" || resp.Header.Get("Atls-Offset") != "2"),
				!strings.Contains(resp.Header.Get("Cache-Control"), "no-store"):
				t.Errorf("%q %v", body, resp.Header)
			}
		})
	}
}

func TestSecondRequestOfAPlainClientIsRefused(t *testing.T) {
	srv, _, conns := listen(t, false)
	resp, _ := ask(t, srv.URL, "POST", 1)
	s := <-conns
	defer func() { _ = s.Close() }()
	cookie := "Cookie: atls=" + resp.Cookies()[0].Value
	statuses := make(chan int)
	for range 2 {
		go func() {
			resp, _ := ask(t, srv.URL, "POST", 0, cookie, "Prefer: wait=20")
			statuses <- resp.StatusCode
		}()
	}
	if got := <-statuses; got != 409 {
		t.Errorf("second: %d", got)
	}
	_, _ = io.ReadFull(s, make([]byte, 1))
	_, _ = s.Write([]byte("y"))
	_ = s.Close()
	if got := <-statuses; got != 200 {
		t.Errorf("first: %d", got)
	}
}

func TestHandlerIsFull(t *testing.T) {
	admit := true
	conns := make(chan *Conn, 4)
	h := NewHandler(&HandlerOptions{
		MaxConns: 2,
		Accept:   func(c *Conn, _ *http.Request) { conns <- c },
		Admit: func(w http.ResponseWriter) bool {
			if !admit {
				w.Header().Set("Retry-After", "3")
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			return admit
		},
	})
	srv := httptest.NewServer(h)
	defer srv.Close()
	defer func() { _ = h.Close() }()
	first, _ := ask(t, srv.URL, "POST", 0, "Atls-Offset: 0")
	admit = false
	if resp, _ := ask(t, srv.URL, "POST", 0, "Atls-Offset: 0"); resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "3" || len(resp.Cookies()) != 0 {
		t.Errorf("not admitted: %d %v", resp.StatusCode, resp.Header)
	}
	admit = true
	_, _ = ask(t, srv.URL, "POST", 0, "Atls-Offset: 0")
	if resp, _ := ask(t, srv.URL, "POST", 0, "Atls-Offset: 0"); resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "10" {
		t.Errorf("full: %d %v", resp.StatusCode, resp.Header)
	}
	resp, _ := ask(t, srv.URL, "POST", 0, "Atls-Offset: 0", "Atls-Fin: 1", "Atls-Session: "+first.Header.Get("Atls-Session"))
	if resp.StatusCode != 200 || resp.Header.Get("Atls-Fin") != "1" {
		t.Errorf("end: %d %v", resp.StatusCode, resp.Header)
	}
	if resp, _ := ask(t, srv.URL, "POST", 0, "Atls-Offset: 0"); resp.StatusCode != 200 {
		t.Errorf("after one has gone: %d", resp.StatusCode)
	}
}

// TestBadServers: what answers is not, or not always, the service.
func TestBadServers(t *testing.T) {
	good := func(w http.ResponseWriter, body string, headers ...string) {
		w.Header().Set("Content-Type", ContentType)
		w.Header().Set("Atls-Session", "AAAA")
		w.Header().Set("Atls-Offset", "0")
		w.Header().Set("Atls-Ack", "0")
		for _, h := range headers {
			k, v, _ := strings.Cut(h, ": ")
			w.Header().Set(k, v)
		}
		_, _ = io.WriteString(w, body)
	}
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		status int
		text   string
		tries  int
	}{
		{"portal", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>Login") }, 200, "a page instead", 1},
		{"redirect", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/else", http.StatusFound) }, 302, "not followed", 1},
		{"not found", http.NotFound, 404, "nothing serves", 1},
		{"busy", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Retry-After", "7"); w.WriteHeader(503) }, 503, "retry after 7s", 1},
		{"bad gateway", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502) }, 502, "does not reach", 3},
		{"nothing", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 0, "EOF", 3},
		{"no session", func(w http.ResponseWriter, _ *http.Request) { good(w, "", "Atls-Session: ") }, 200, "session", 1},
		{"no offset", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", ContentType)
			w.Header().Set("Atls-Session", "AAAA")
		}, 200, "no Atls-Offset", 1},
		{"ack of what was not sent", func(w http.ResponseWriter, _ *http.Request) { good(w, "", "Atls-Ack: 9") }, 200, "more than was sent", 1},
		{"bytes from elsewhere", func(w http.ResponseWriter, _ *http.Request) { good(w, "x", "Atls-Offset: 9") }, 200, "not those that follow", 1},
		{"endless", func(w http.ResponseWriter, r *http.Request) {
			good(w, "")
			for r.Context().Err() == nil {
				_, _ = w.Write(make([]byte, MaxBody))
			}
		}, 200, "over 65536 bytes", 1},
		{"too long", func(w http.ResponseWriter, _ *http.Request) {
			good(w, strings.Repeat("x", MaxBody+1), "Content-Length: "+strconv.Itoa(MaxBody+1))
		}, 200, "over 65536 bytes", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tries := 0
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				tries++
				tt.answer(w, r)
			}))
			defer srv.Close()
			c, err := Dial(t.Context(), srv.URL, dialOptions(srv))
			if err != nil {
				t.Fatal(err)
			}
			_, _ = c.Write([]byte("x"))
			n, err := c.Read(make([]byte, 1))
			var ae *AnswerError
			if !errors.As(err, &ae) || ae.StatusCode != tt.status || !strings.Contains(err.Error(), tt.text) || n != 0 {
				t.Errorf("%d bytes, %v", n, err)
			}
			if _, err := c.Write([]byte("x")); !errors.As(err, &ae) {
				t.Errorf("write: %v", err)
			}
			_ = c.Close()
			srv.Close()
			if tries != tt.tries {
				t.Errorf("%d tries", tries)
			}
		})
	}
}

// TestCutAnswersAreAskedForAgain: nothing of them is used.
func TestCutAnswersAreAskedForAgain(t *testing.T) {
	for _, tt := range []struct {
		name string
		cut  func(w http.ResponseWriter, rec *httptest.ResponseRecorder)
	}{
		{"short of Content-Length", func(w http.ResponseWriter, rec *httptest.ResponseRecorder) {
			_, _ = w.Write(rec.Body.Bytes()[:rec.Body.Len()-1])
		}},
		{"of unknown length", func(w http.ResponseWriter, rec *httptest.ResponseRecorder) {
			conn, _, _ := http.NewResponseController(w).Hijack()
			_, _ = io.WriteString(conn, "HTTP/1.0 200 OK\r\n")
			rec.Header().Del("Content-Length")
			_ = rec.Header().Write(conn)
			_, _ = conn.Write(append([]byte("\r\n"), rec.Body.Bytes()[:rec.Body.Len()-1]...))
			_ = conn.Close()
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv, h, conns := listen(t, false)
			cuts := 0
			box := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				rec := httptest.NewRecorder()
				h.ServeHTTP(rec, r)
				for k, v := range rec.Header() {
					w.Header()[k] = v
				}
				if rec.Body.Len() > 1 && cuts < 2 {
					cuts++
					tt.cut(w, rec)
					return
				}
				w.WriteHeader(rec.Code)
				_, _ = w.Write(rec.Body.Bytes())
			}))
			defer box.Close()
			c, s := dial(t, box.URL, dialOptions(srv), conns)
			echo(t, s, c, "downlink bytes")
			_ = s.Close()
			if _, err := c.Read(make([]byte, 1)); err != io.EOF || cuts != 2 {
				t.Errorf("%v, %d cuts", err, cuts)
			}
			_ = c.Close()
		})
	}
}

func TestDialRefusesURLs(t *testing.T) {
	for _, u := range []string{"", "ftp://x/", "https://", "http://[bad", "x"} {
		var ae *AnswerError
		if _, err := Dial(t.Context(), u, nil); !errors.As(err, &ae) {
			t.Errorf("%q: %v", u, err)
		}
	}
	for _, u := range []string{"ws://x/", "wss://x/", "http://x", "https://x/y"} {
		c, err := Dial(t.Context(), u, nil)
		if err != nil {
			t.Errorf("%q: %v", u, err)
			continue
		}
		if err := c.Close(); err != nil {
			t.Errorf("%q: close without a request: %v", u, err)
		}
	}
}

func FuzzHead(f *testing.F) {
	f.Add("0", "17", "1", `wait=20, x="y"; z`, "AAAA", "atls=AAAA; b=c", "atls=AAAA; Path=/")
	f.Add("18446744073709551616", "-1", "2", `WAIT="99999999999"`, "", "atls", "=")
	f.Fuzz(func(t *testing.T, offset, ack, fin, preference, session, cookie, setCookie string) {
		h := http.Header{
			offsetHeader: {offset}, ackHeader: {ack}, finHeader: {fin}, "Prefer": {preference},
			sessionHeader: {session}, "Cookie": {cookie}, "Set-Cookie": {setCookie},
		}
		m, err := parseHead(h)
		if err != nil {
			return
		}
		if m.offset > maxOffset || m.ack > maxOffset || m.plain || !m.fin || m.wait > maxHold || m.wait < 0 || m.wait > 0 && !m.poll {
			t.Errorf("%+v", m)
		}
		out := http.Header{}
		m.write(out)
		again, err := parseHead(out)
		if err != nil || again.offset != m.offset || again.ack != m.ack || again.fin != m.fin {
			t.Errorf("%+v, then %+v, %v", m, again, err)
		}
		for _, c := range m.locator {
			if !strings.ContainsRune("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_", c) {
				t.Errorf("locator %q", m.locator)
			}
		}
	})
}

func BenchmarkBulk(b *testing.B) {
	for _, up := range []bool{true, false} {
		b.Run(fmt.Sprintf("up=%v", up), func(b *testing.B) {
			from, to := pair(b, false)
			if !up {
				from, to = to, from
			}
			const size = 32 << 10
			b.SetBytes(size)
			go func() {
				buf := make([]byte, size)
				for range b.N {
					if _, err := from.Write(buf); err != nil {
						return
					}
				}
			}()
			if _, err := io.CopyN(io.Discard, to, int64(b.N)*size); err != nil {
				b.Fatal(err)
			}
		})
	}
}
