package wsconn

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// upgraded is a server-side Conn and the bare TCP connection of its client,
// whose upgrade request carried extra bytes behind it.
func upgraded(t *testing.T, extra string, hdr ...string) (net.Conn, *bufio.Reader, *Conn) {
	t.Helper()
	srv, conns, errs := listen(t, false, nil)
	c, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"+strings.Join(hdr, "")+"\r\n"+extra)
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != 101 {
		t.Fatalf("%v %v", resp, err)
	}
	if got := resp.Header.Get("Sec-WebSocket-Protocol"); got != "" && got != Subprotocol {
		t.Errorf("selected %q", got)
	}
	select {
	case s := <-conns:
		t.Cleanup(func() { _ = s.Close() })
		return c, br, s
	case err := <-errs:
		t.Logf("accept: %v", err)
		return c, br, nil
	}
}

// frame is a masked frame, mask key 0.
func frame(opcode byte, payload string) string {
	h := []byte{0x80 | opcode, 0x80 | byte(len(payload))}
	if len(payload) > 125 {
		h = binary.BigEndian.AppendUint16([]byte{0x80 | opcode, 0x80 | 126}, uint16(len(payload)))
	}
	return string(h) + "\x00\x00\x00\x00" + payload
}

// readFrame reads an unmasked frame.
func readFrame(t *testing.T, br *bufio.Reader) (opcode byte, payload []byte) {
	t.Helper()
	h := make([]byte, 2, 8)
	if _, err := io.ReadFull(br, h); err != nil {
		t.Fatalf("frame: %v", err)
	}
	n := uint64(h[1])
	if size := map[byte]int{126: 2, 127: 8}[h[1]]; size > 0 {
		ext := make([]byte, 8)
		_, _ = io.ReadFull(br, ext[8-size:])
		n = binary.BigEndian.Uint64(ext)
	}
	payload = make([]byte, n)
	if _, err := io.ReadFull(br, payload); err != nil {
		t.Fatalf("payload: %v", err)
	}
	return h[0] & 15, payload
}

// TestPingIsAnsweredBehindAMessageOnASlowLine: the library would give a pong
// five seconds, and then close.
func TestPingIsAnsweredBehindAMessageOnASlowLine(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seven seconds")
	}
	t.Parallel()
	c, br, s := upgraded(t, "")
	fillUp(t, s)
	_, _ = io.WriteString(c, frame(9, "ping"))
	_, _ = io.WriteString(c, frame(2, "x"))
	time.Sleep(6 * time.Second) // that the library's timer runs out is the point
	if _, err := s.Read(make([]byte, 1)); err != nil {
		t.Fatalf("the connection did not survive: %v", err)
	}
	for {
		if op, p := readFrame(t, br); op == 10 {
			if string(p) != "ping" {
				t.Errorf("pong %q", p)
			}
			return
		}
	}
}

// fillUp writes until nothing more is taken for a while: what takes it, the
// kernel too, may be slow on a busy machine.
func fillUp(t *testing.T, c net.Conn) {
	t.Helper()
	for idle := 0; idle < 4; {
		_ = c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
		n, err := c.Write(make([]byte, MaxMessage))
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		if idle++; n > 0 {
			idle = 0
		}
	}
	_ = c.SetWriteDeadline(time.Time{})
}

func TestPingFloodOfOneWhoDoesNotReadIsBounded(t *testing.T) {
	t.Parallel()
	c, _, s := upgraded(t, "")
	fillUp(t, s)
	flood := strings.Repeat(frame(9, strings.Repeat("p", 125)), 1000)
	for range 4 {
		_, _ = io.WriteString(c, flood)
	}
	_, _ = io.WriteString(c, frame(2, "x"))
	if _, err := s.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	s.tx.mu.Lock()
	defer s.tx.mu.Unlock()
	if n := len(s.tx.pong); n > maxHead+maxControl {
		t.Errorf("%d bytes of pongs are kept", n)
	}
}

func TestTimedOutWriteLeavesTheConnection(t *testing.T) {
	t.Parallel()
	c, s := pair(t, true)
	_ = c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	sent := 0
	for {
		n, err := c.Write(make([]byte, 100_000))
		sent += n
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
			break
		}
	}
	_ = c.SetWriteDeadline(time.Time{})
	go func() { _, _ = io.WriteString(c, "end") }()
	got := make([]byte, sent+3)
	if _, err := io.ReadFull(s, got); err != nil || string(got[sent:]) != "end" {
		t.Errorf("%v, ends with %q", err, got[sent:])
	}
}

func TestSmallWritesShareMessages(t *testing.T) {
	t.Parallel()
	_, br, s := upgraded(t, "")
	const total = 4 << 20
	go func() {
		for range total / 64 {
			_, _ = s.Write(make([]byte, 64))
		}
	}()
	messages, got := 0, 0
	for got < total {
		op, p := readFrame(t, br)
		if op != 2 || len(p) > MaxMessage {
			t.Fatalf("frame %d of %d bytes", op, len(p))
		}
		messages, got = messages+1, got+len(p)
	}
	if messages > total/64/4 {
		t.Errorf("%d messages for %d writes", messages, total/64)
	}
	t.Logf("%d writes in %d messages", total/64, messages)
}

// countingConn counts the writes to the TCP connection.
type countingConn struct {
	net.Conn
	mu     sync.Mutex
	writes []int
}

func (c *countingConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.writes = append(c.writes, len(p))
	c.mu.Unlock()
	return c.Conn.Write(p)
}

func TestMessageIsOneWriteToTheCarrier(t *testing.T) {
	srv, conns, _ := listen(t, false, nil)
	var tcp *countingConn
	o := dialOptions(srv)
	o.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		tcp = &countingConn{Conn: c}
		return tcp, err
	}
	c, err := Dial(t.Context(), srv.URL, o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	s := <-conns
	defer func() { _ = s.Close() }()
	want := make([]byte, MaxMessage)
	_, _ = rand.Read(want)
	tcp.mu.Lock()
	tcp.writes = nil
	tcp.mu.Unlock()
	_, _ = c.Write(want)
	got := make([]byte, MaxMessage)
	if _, err := io.ReadFull(s, got); err != nil || !bytes.Equal(got, want) {
		t.Fatal("not what was written", err)
	}
	tcp.mu.Lock()
	defer tcp.mu.Unlock()
	if len(tcp.writes) != 1 || tcp.writes[0] <= MaxMessage {
		t.Errorf("writes of %v bytes", tcp.writes)
	}
}

func TestIdleConnKeepsNoBuffer(t *testing.T) {
	c, s := pair(t, true)
	for range 3 {
		_, _ = c.Write(make([]byte, 100_000))
		if _, err := io.ReadFull(s, make([]byte, 100_000)); err != nil {
			t.Fatal(err)
		}
	}
	c.tx.wait()
	for end := time.Now().Add(2 * time.Second); ; time.Sleep(time.Millisecond) {
		s.rx.mu.Lock()
		idle := s.rx.ring == nil
		s.rx.mu.Unlock()
		c.tx.mu.Lock()
		idle = idle && c.tx.pending == nil && !c.tx.running
		c.tx.mu.Unlock()
		if idle {
			return
		}
		if time.Now().After(end) {
			t.Fatal("an idle connection keeps a buffer")
		}
	}
}

func TestBytesBehindTheUpgradeRequestAreRead(t *testing.T) {
	t.Parallel()
	_, _, s := upgraded(t, frame(2, "early")+frame(2, ""))
	got := make([]byte, 5)
	if _, err := io.ReadFull(s, got); err != nil || string(got) != "early" {
		t.Fatalf("%q %v", got, err)
	}
}

func TestEndsOfTheCarrier(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, send string
		want       error
		text       string
	}{
		{"close frame", frame(8, "\x03\xe8"), io.EOF, ""},
		{"going away", frame(8, "\x03\xe9"), io.EOF, ""},
		{"close without a status", frame(8, ""), io.EOF, ""},
		{"cut", "", io.ErrUnexpectedEOF, "without a close frame"},
		{"cut in a frame", frame(2, "abc")[:5], io.ErrUnexpectedEOF, "without a close frame"},
		{"internal error", frame(8, "\x03\xf3oops"), nil, "oops"},
		{"unmasked", "\x82\x01x", nil, "unmasked"},
		{"reserved bits", "\xf2\x80\x00\x00\x00\x00", nil, "rsv"},
		{"unknown opcode", frame(5, "x"), nil, "opcode"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, br, s := upgraded(t, frame(2, "data")+tt.send)
			if strings.HasPrefix(tt.name, "cut") {
				_ = c.(*net.TCPConn).CloseWrite()
			}
			got, err := io.ReadAll(s)
			if string(got) != "data" {
				t.Errorf("read %q before the end", got)
			}
			if err == nil {
				err = io.EOF
			}
			if (tt.want != nil && !errors.Is(err, tt.want)) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("ends with %v", err)
			}
			// Without a Close of ours the connection below ends all the same.
			_ = c.SetReadDeadline(time.Now().Add(3 * time.Second))
			if _, err := io.Copy(io.Discard, br); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the carrier is still open")
			}
			if _, err := s.Write([]byte("x")); err == nil {
				t.Error("a write after the end succeeds")
			}
		})
	}
}

func TestCloseIsBounded(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		full  bool
		bound time.Duration
	}{
		{"silent peer", false, lingerTimeout},
		{"peer that reads nothing", true, closeTimeout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, _, s := upgraded(t, "")
			if tt.full {
				fillUp(t, s)
			}
			read, begin := make(chan error), time.Now()
			go func() {
				_, err := s.Read(make([]byte, 1))
				read <- err
			}()
			var all sync.WaitGroup
			for range 3 {
				all.Go(func() {
					if err := s.Close(); (err != nil) != tt.full {
						t.Errorf("close: %v", err)
					}
				})
			}
			if err := <-read; !errors.Is(err, net.ErrClosed) {
				t.Errorf("read: %v", err)
			}
			all.Wait()
			if d := time.Since(begin); d > tt.bound+time.Second {
				t.Errorf("close took %s", d)
			}
			if err := s.SetDeadline(time.Now()); !errors.Is(err, net.ErrClosed) {
				t.Errorf("deadline after close: %v", err)
			}
		})
	}
}

func TestCloseUnblocksWrite(t *testing.T) {
	t.Parallel()
	_, _, s := upgraded(t, "")
	fillUp(t, s)
	wrote := make(chan error)
	go func() {
		_, err := s.Write(make([]byte, 10*MaxMessage))
		wrote <- err
	}()
	go func() { _ = s.Close() }()
	if err := <-wrote; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	_ = s.Close()
}

func TestPairClosesWithoutWaiting(t *testing.T) {
	c, s := pair(t, true)
	begin := time.Now()
	_ = c.Close()
	if d := time.Since(begin); d > lingerTimeout/2 {
		t.Errorf("close took %s although the other end answers", d)
	}
	if _, err := s.Read(make([]byte, 1)); err != io.EOF {
		t.Error(err)
	}
	var ce websocket.CloseError
	if _, err := s.Write([]byte("x")); err == nil || errors.As(err, &ce) {
		t.Error(err)
	}
}
