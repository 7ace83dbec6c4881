package expose

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/limit"
	"github.com/atls-ws/atls-ws/internal/proto"
)

// tcpPair is a connection with half-close, as a stream is.
func tcpPair(t *testing.T) (ours, theirs *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	d, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(20 * time.Second)) // a bound of the test, not of the code
	t.Cleanup(func() { _ = c.Close() })
	return c.(*net.TCPConn), d.(*net.TCPConn)
}

// serve serves one connection to a target and returns the peer's end.
func serve(t *testing.T, target string, log io.Writer) *net.TCPConn {
	t.Helper()
	s, err := Start(nil, nil, Options{Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := tcpPair(t)
	s.wg.Go(func() { s.serve(theirs, "x", mustTarget(t, target)) })
	t.Cleanup(s.Close)
	return ours
}

func TestProgramGetsTheStreamAsInputAndOutput(t *testing.T) {
	var log bytes.Buffer
	c := serve(t, `exec:["sh","-c","echo begun >&2; tr a-z A-Z; echo done"]`, &log)
	_, _ = io.WriteString(c, "hello ")
	_ = c.CloseWrite()
	if got, err := io.ReadAll(c); string(got) != "HELLO done\n" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestProgramThatEndsEndsTheStreamWithAllItsOutput(t *testing.T) {
	// The peer keeps its direction open, and reads late.
	c := serve(t, `exec:["sh","-c","head -c 300000 /dev/zero"]`, io.Discard)
	_, _ = io.WriteString(c, "not read")
	if got, err := io.Copy(io.Discard, c); got != 300000 || err != nil {
		t.Errorf("%d bytes, %v", got, err)
	}
}

func TestProgramEndsWithTheStreamAndTakesItsChildrenAlong(t *testing.T) {
	c := serve(t, `exec:["sh","-c","sleep 1000 & echo $!; wait"]`, io.Discard)
	pid, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetLinger(0)
	_ = c.Close() // RST
	for end := time.Now().Add(10 * time.Second); ; {
		stat, err := os.ReadFile("/proc/" + strings.TrimSpace(pid) + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the program's child still runs")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestProgramThatCannotRunIsAFailure(t *testing.T) {
	c := serve(t, "exec:/nonexistent/program", io.Discard)
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("no error")
	}
}

func TestUDPKeepsDatagramsApart(t *testing.T) {
	echo, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = echo.Close() }()
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, from, err := echo.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = echo.WriteTo(bytes.ToUpper(buf[:n]), from)
		}
	}()
	c := serve(t, "udp://"+echo.LocalAddr().String(), io.Discard)
	var stream []byte
	for _, d := range []string{"one", "", "three"} {
		stream, _ = proto.AppendDatagram(stream, []byte(d))
	}
	_, _ = c.Write(stream)
	buf := make([]byte, proto.MaxDatagram)
	for _, want := range []string{"ONE", "", "THREE"} {
		if n, err := proto.ReadDatagram(c, buf); err != nil || string(buf[:n]) != want {
			t.Errorf("%q, %v, want %q", buf[:n], err, want)
		}
	}
}

func TestProxyConnectsToWhatIsAllowed(t *testing.T) {
	target, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = target.Close() }()
	go func() {
		for {
			c, err := target.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	}()
	_, port, _ := net.SplitHostPort(target.Addr().String())
	for _, tc := range []struct {
		allow, to, status, text string
	}{
		{"127.0.0.1:" + port, "127.0.0.1:" + port, "200", ""},
		{"localhost:*", "localhost:" + port, "200", ""},
		{"*:*", "127.0.0.1:" + port, "403", "only a rule for that address"},
		{"*:*", "localhost:" + port, "403", "only a rule for that address"},
		{"10.0.0.0/8:443", "127.0.0.1:" + port, "403", "no rule allows"},
		{"*.corp:443", "intranet.example:443", "403", "no rule allows intranet.example:443"},
		{"127.0.0.1:1", "127.0.0.1:1", "502", "refused"},
		{"127.0.0.1:1", "127.0.0.1", "400", "host:port"},
	} {
		var log bytes.Buffer
		c := serve(t, "proxy:"+tc.allow, &log)
		// What follows the request at once is not lost.
		_, _ = io.WriteString(c, "CONNECT "+tc.to+" HTTP/1.1\r\nHost: "+tc.to+"\r\n\r\nping")
		_ = c.CloseWrite()
		r := bufio.NewReader(c)
		resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
		if err != nil || !strings.HasPrefix(resp.Status, tc.status) {
			t.Errorf("%s by %s: %v, %v", tc.to, tc.allow, resp, err)
			continue
		}
		body, _ := io.ReadAll(r)
		if tc.status == "200" && string(body) != "ping" || !strings.Contains(string(body), tc.text) {
			t.Errorf("%s by %s: %q, want %q", tc.to, tc.allow, body, tc.text)
		}
	}
}

func TestProxyTakesCONNECTAloneAndNotForEver(t *testing.T) {
	for _, request := range []string{"GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n", "\x16\x03\x01 hello\r\n\r\n", "CONNECT x:1 HTTP/1.1\r\nA: " + strings.Repeat("a", maxRequest)} {
		c := serve(t, "proxy:*:*", io.Discard)
		_, _ = io.WriteString(c, request)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || resp.StatusCode/100 != 4 {
			t.Errorf("%.20q: %v, %v", request, resp, err)
		}
	}
}

func TestNameIsNotAskedForWhenNoRuleCouldAllowIt(t *testing.T) {
	allow, err := config.ParseDestinations([]string{"*.corp:443"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // a lookup would give this error
	if _, code, err := dialAllowed(ctx, "secret.example:443", allow); code != http.StatusForbidden || errors.Is(err, context.Canceled) {
		t.Errorf("%d, %v", code, err)
	}
}

func TestConnectionsOfOnePeerAreCounted(t *testing.T) {
	s, err := Start(nil, nil, Options{Logger: slog.New(slog.DiscardHandler), Limits: &limit.Peers{Conns: 1}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	first, theirs := tcpPair(t)
	s.wg.Go(func() { s.serve(theirs, "x", mustTarget(t, "exec:cat")) })
	_, _ = io.WriteString(first, "x")
	if _, err := io.ReadFull(first, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	second, theirs2 := tcpPair(t)
	s.serve(theirs2, "x", mustTarget(t, "exec:cat"))
	if got, _ := io.ReadAll(second); len(got) != 0 {
		t.Errorf("%q", got)
	}
}
