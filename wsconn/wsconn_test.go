package wsconn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/net/nettest"

	"github.com/atls-ws/atls-ws/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

// listen serves Accept and hands over what it returns.
func listen(tb testing.TB, tls bool, o *AcceptOptions) (*httptest.Server, <-chan *Conn, <-chan error) {
	conns, errs := make(chan *Conn, 8), make(chan error, 8)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := Accept(w, r, o)
		if err != nil {
			errs <- err
			return
		}
		conns <- c
	}))
	if tls {
		srv.StartTLS()
	} else {
		srv.Start()
	}
	tb.Cleanup(srv.Close)
	return srv, conns, errs
}

func dialOptions(srv *httptest.Server) *DialOptions {
	o := &DialOptions{Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }}
	if srv.TLS != nil {
		o.TLS = srv.Client().Transport.(*http.Transport).TLSClientConfig
	}
	return o
}

func pair(tb testing.TB, tls bool) (client, server *Conn) {
	tb.Helper()
	srv, conns, _ := listen(tb, tls, nil)
	c, err := Dial(tb.Context(), srv.URL, dialOptions(srv))
	if err != nil {
		tb.Fatal(err)
	}
	s := <-conns
	tb.Cleanup(func() { _ = c.Close(); _ = s.Close() })
	return c, s
}

// piped is a pair that a net.Pipe carries, which takes a write only as it is read.
func piped(tb testing.TB) (client, server *Conn) {
	a, b := net.Pipe()
	c := newConn(newSender(a, a, true, false), nil, nil)
	s := newConn(newSender(b, b, false, false), nil, nil)
	tb.Cleanup(func() { _ = c.Close(); _ = s.Close() })
	return c, s
}

// batched is a pair over TLS whose records share writes.
func batched(tb testing.TB) (client, server *Conn) {
	conns := make(chan *Conn, 1)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := Accept(w, r, nil)
		if err != nil {
			tb.Error(err)
		}
		conns <- c
	}))
	srv.Listener = Listener(srv.Listener)
	srv.StartTLS()
	tb.Cleanup(srv.Close)
	c, err := Dial(tb.Context(), srv.URL, dialOptions(srv))
	if err != nil {
		tb.Fatal(err)
	}
	s := <-conns
	tb.Cleanup(func() { _ = c.Close(); _ = s.Close() })
	return c, s
}

func TestConnIsANetConn(t *testing.T) {
	t.Parallel()
	for _, carrier := range []struct {
		name string
		pair func(testing.TB) (client, server *Conn)
	}{
		{"ws", func(tb testing.TB) (*Conn, *Conn) { return pair(tb, false) }},
		{"wss", func(tb testing.TB) (*Conn, *Conn) { return pair(tb, true) }},
		{"wss in batches", batched},
		{"pipe", piped},
	} {
		for _, swap := range []bool{false, true} {
			t.Run(fmt.Sprint(carrier.name, ", server first ", swap), func(t *testing.T) {
				nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
					c, s := carrier.pair(t)
					stop := func() { _ = c.Close(); _ = s.Close() }
					if swap {
						return s, c, stop, nil
					}
					return c, s, stop, nil
				})
			})
		}
	}
}

func TestAddressesAndOuterState(t *testing.T) {
	c, s := pair(t, true)
	if c.RemoteAddr().String() != s.LocalAddr().String() || s.RemoteAddr().String() != c.LocalAddr().String() {
		t.Errorf("client %s-%s, server %s-%s", c.LocalAddr(), c.RemoteAddr(), s.LocalAddr(), s.RemoteAddr())
	}
	if cs := c.ConnectionState(); cs == nil || len(cs.PeerCertificates) == 0 {
		t.Errorf("client's outer state: %+v", cs)
	}
	if s.ConnectionState() == nil {
		t.Error("server's outer state is nil")
	}
	c, _ = pair(t, false)
	if c.ConnectionState() != nil {
		t.Error("outer state of a ws connection")
	}
}

func TestTimedOutReadLeavesTheConnection(t *testing.T) {
	c, s := pair(t, false)
	_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Time{})
	_, _ = s.Write([]byte("x"))
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

func TestCloseDeliversWhatWasWritten(t *testing.T) {
	c, s := pair(t, true)
	want := bytes.Repeat([]byte("0123456789"), 30_000)
	go func() {
		_, _ = c.Write(want)
		_ = c.Close()
	}()
	got, err := io.ReadAll(s)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d of %d bytes, %v", len(got), len(want), err)
	}
}

func TestCloseIsBoundedWhenThePeerReadsNothing(t *testing.T) {
	t.Parallel()
	c, s := pair(t, false)
	_ = c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	for {
		if _, err := c.Write(make([]byte, MaxMessage)); err != nil {
			break
		}
	}
	_ = c.Close()
	if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after Close: %v", err)
	}
	_ = s
}

// rawDial is a client that is not ours.
func rawDial(t *testing.T, srv *httptest.Server, o *websocket.DialOptions) (*websocket.Conn, error) {
	ws, _, err := websocket.Dial(t.Context(), srv.URL, o)
	if err == nil {
		t.Cleanup(func() { _ = ws.CloseNow() })
	}
	return ws, err
}

func TestRefusedMessages(t *testing.T) {
	for _, tt := range []struct {
		name string
		typ  websocket.MessageType
		size int
		code websocket.StatusCode
	}{
		{"text", websocket.MessageText, 1, websocket.StatusUnsupportedData},
		{"oversize", websocket.MessageBinary, maxReceived + 1, websocket.StatusMessageTooBig},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv, conns, _ := listen(t, false, nil)
			ws, err := rawDial(t, srv, nil)
			if err != nil {
				t.Fatal(err)
			}
			s := <-conns
			defer func() { _ = s.Close() }()
			go func() { _, _ = io.Copy(io.Discard, s) }()
			_ = ws.Write(t.Context(), tt.typ, make([]byte, tt.size))
			_, _, err = ws.Read(t.Context())
			if websocket.CloseStatus(err) != tt.code {
				t.Errorf("closed with %v, want %d", err, tt.code)
			}
		})
	}
}

func TestLargestMessageIsTaken(t *testing.T) {
	t.Parallel()
	srv, conns, _ := listen(t, false, nil)
	ws, err := rawDial(t, srv, nil) // offers no subprotocol: plain bridges do not
	if err != nil {
		t.Fatal(err)
	}
	s := <-conns
	defer func() { _ = s.Close() }()
	go func() { _ = ws.Write(t.Context(), websocket.MessageBinary, make([]byte, maxReceived)) }()
	if _, err := io.ReadFull(s, make([]byte, maxReceived)); err != nil {
		t.Fatal(err)
	}
}

func TestWrongSubprotocolIsClosed(t *testing.T) {
	srv, _, errs := listen(t, false, nil)
	ws, err := rawDial(t, srv, &websocket.DialOptions{Subprotocols: []string{"mqtt"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := ws.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
		t.Errorf("closed with %v", err)
	}
	if err := <-errs; !strings.Contains(err.Error(), "mqtt") {
		t.Error(err)
	}
}

func TestAcceptRefusals(t *testing.T) {
	upgrade := http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"AAAAAAAAAAAAAAAAAAAAAA=="}}
	with := func(k, v string) http.Header {
		h := upgrade.Clone()
		h.Set(k, v)
		return h
	}
	for _, tt := range []struct {
		name, method, body string
		header             http.Header
		status             int
	}{
		{"plain GET", "GET", "", nil, 426},
		{"POST", "POST", "x", nil, 405},
		{"origin", "GET", "", with("Origin", "https://evil.example"), 403},
		{"body", "GET", "x", upgrade, 400},
		{"version", "GET", "", with("Sec-Websocket-Version", "12"), 400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv, _, errs := listen(t, false, &AcceptOptions{Origins: []string{"https://app.example"}})
			req, _ := http.NewRequestWithContext(t.Context(), tt.method, srv.URL, strings.NewReader(tt.body))
			if tt.header != nil {
				req.Header = tt.header
			}
			resp, err := srv.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != tt.status {
				t.Errorf("status %d, want %d: %s", resp.StatusCode, tt.status, body)
			}
			if tt.status == 426 && (!strings.Contains(string(body), "urn:atls-ws:upgrade-required") || resp.Header.Get("Upgrade") != "websocket") {
				t.Errorf("426 is not ours: %s %v", body, resp.Header)
			}
			if tt.status == 405 && resp.Header.Get("Allow") != "GET" {
				t.Errorf("Allow: %q", resp.Header.Get("Allow"))
			}
			if err := <-errs; err == nil {
				t.Error("no error")
			}
		})
	}
}

func TestAllowedOriginConnects(t *testing.T) {
	srv, conns, _ := listen(t, false, &AcceptOptions{Origins: []string{"https://app.example"}})
	o := dialOptions(srv)
	o.Header = http.Header{"Origin": {"https://app.example"}}
	c, err := Dial(t.Context(), srv.URL, o)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	_ = (<-conns).Close()
}

func TestUpgradeErrors(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		status int
		retry  time.Duration
		text   string
	}{
		{"not found", http.NotFound, 404, 0, "404 page not found"},
		{"busy", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(503)
		}, 503, 7 * time.Second, "retry after 7s"},
		{"login page", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>\n<b>Login\x00</b>") }, 200, 0, "<html> <b>Login </b>"},
		{"redirect", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) }, 302, 0, "302 Found"},
		{"no subprotocol", func(w http.ResponseWriter, r *http.Request) {
			if ws, err := websocket.Accept(w, r, nil); err == nil {
				_, _, _ = ws.Read(r.Context())
				_ = ws.CloseNow()
			}
		}, 101, 0, `selected subprotocol ""`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := httptest.NewServer(tt.answer)
			defer srv.Close()
			_, err := Dial(t.Context(), srv.URL, dialOptions(srv))
			var up *UpgradeError
			if !errors.As(err, &up) {
				t.Fatal(err)
			}
			if up.StatusCode != tt.status || up.RetryAfter != tt.retry || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%d %s %q, want %q", up.StatusCode, up.RetryAfter, err, tt.text)
			}
		})
	}
}

func TestDialToASilentServerEndsWithContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	cause := errors.New("took too long")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, cause)
	defer cancel()
	if _, err := Dial(ctx, "http://"+l.Addr().String(), nil); !errors.Is(err, cause) {
		t.Fatal(err)
	}
}

func TestDialThroughProxy(t *testing.T) {
	srv, conns, _ := listen(t, true, nil)
	var auth string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		auth = r.Header.Get("Proxy-Authorization")
		out, err := net.Dial("tcp", r.Host)
		if err != nil {
			w.WriteHeader(502)
			return
		}
		w.WriteHeader(200)
		in, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		go func() { _, _ = io.Copy(out, rw); _ = out.Close() }()
		_, _ = io.Copy(in, out)
		_ = in.Close()
	}))
	defer proxy.Close()
	o := dialOptions(srv)
	u, _ := url.Parse(strings.Replace(proxy.URL, "http://", "http://me:secret@", 1))
	o.Proxy = http.ProxyURL(u)
	c, err := Dial(t.Context(), srv.URL, o)
	if err != nil {
		t.Fatal(err)
	}
	if auth == "" || c.RemoteAddr().String() != u.Host {
		t.Errorf("proxy saw %q, connected to %s", auth, c.RemoteAddr())
	}
	_ = c.Close()
	_ = (<-conns).Close()
}
