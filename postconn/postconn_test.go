package postconn

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/atls-ws/atls-ws/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

// listen serves a Handler and hands over its connections.
func listen(tb testing.TB, tls bool) (*httptest.Server, *Handler, <-chan *Conn) {
	conns := make(chan *Conn, 64)
	h := NewHandler(&HandlerOptions{Accept: func(c *Conn, _ *http.Request) {
		c.Established()
		conns <- c
	}})
	srv := httptest.NewUnstartedServer(h)
	if tls {
		srv.StartTLS()
	} else {
		srv.Start()
	}
	tb.Cleanup(func() { _ = h.Close(); srv.Close() })
	return srv, h, conns
}

func dialOptions(srv *httptest.Server) *DialOptions {
	o := &DialOptions{Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }}
	if srv.TLS != nil {
		o.TLS = srv.Client().Transport.(*http.Transport).TLSClientConfig
	}
	return o
}

// dial returns both ends of a connection, the client's to url.
func dial(tb testing.TB, url string, o *DialOptions, conns <-chan *Conn) (client, server *Conn) {
	tb.Helper()
	c, err := Dial(tb.Context(), url, o)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := c.Write([]byte("x")); err != nil {
		tb.Fatal(err)
	}
	s := <-conns
	if _, err := io.ReadFull(s, make([]byte, 1)); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Close(); _ = c.Close() })
	return c, s
}

func pair(tb testing.TB, tls bool) (client, server *Conn) {
	tb.Helper()
	srv, _, conns := listen(tb, tls)
	return dial(tb, srv.URL, dialOptions(srv), conns)
}

func TestConnIsANetConn(t *testing.T) {
	for _, tls := range []bool{false, true} {
		for _, swap := range []bool{false, true} {
			t.Run(fmt.Sprintf("tls %v server first %v", tls, swap), func(t *testing.T) {
				nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
					c, s := pair(t, tls)
					stop := func() { _ = s.Close(); _ = c.Close() }
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
	srv, _, conns := listen(t, true)
	c, err := Dial(t.Context(), srv.URL, dialOptions(srv))
	if err != nil {
		t.Fatal(err)
	}
	if c.ConnectionState() != nil || c.RemoteAddr().String() != srv.Listener.Addr().String() {
		t.Errorf("before a request: %+v, %s", c.ConnectionState(), c.RemoteAddr())
	}
	_, _ = c.Write([]byte("x"))
	s := <-conns
	_, _ = s.Write([]byte("y"))
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if c.RemoteAddr().String() != s.LocalAddr().String() || s.RemoteAddr().String() != c.LocalAddr().String() {
		t.Errorf("client %s-%s, server %s-%s", c.LocalAddr(), c.RemoteAddr(), s.LocalAddr(), s.RemoteAddr())
	}
	if _, ok := s.RemoteAddr().(*net.TCPAddr); !ok {
		t.Errorf("remote address is a %T", s.RemoteAddr())
	}
	if cs := c.ConnectionState(); cs == nil || len(cs.PeerCertificates) == 0 {
		t.Errorf("client's outer state: %+v", cs)
	}
	if s.ConnectionState() == nil {
		t.Error("server's outer state is nil")
	}
	_ = c.Close()
	_ = s.Close()
	if c, s := pair(t, false); c.ConnectionState() != nil || s.ConnectionState() != nil {
		t.Error("outer state of an http connection")
	}
}

func TestTimedOutReadLeavesTheConnection(t *testing.T) {
	c, s := pair(t, false)
	for _, c := range []*Conn{c, s} {
		_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Time{})
	}
	echo(t, c, s, "x")
	echo(t, s, c, "y")
}

func echo(t *testing.T, from, to *Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(from, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(to, got); err != nil || string(got) != text {
		t.Fatalf("%q %v, want %q", got, err, text)
	}
}

func TestCloseDeliversWhatWasWritten(t *testing.T) {
	for _, fromServer := range []bool{false, true} {
		from, to := pair(t, true)
		if fromServer {
			from, to = to, from
		}
		want := bytes.Repeat([]byte("0123456789"), 30_000)
		closed := make(chan error)
		go func() {
			_, _ = from.Write(want)
			closed <- from.Close()
		}()
		got, err := io.ReadAll(to)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("from server %v: %d of %d bytes, %v", fromServer, len(got), len(want), err)
		}
		if err := <-closed; err != nil {
			t.Errorf("from server %v: close: %v", fromServer, err)
		}
		if _, err := to.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("from server %v: write after the end: %v", fromServer, err)
		}
	}
}
