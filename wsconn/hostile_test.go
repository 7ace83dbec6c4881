package wsconn

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestWrongFrameInWhatWasReadAhead: what is left of it must not be read for ever.
func TestWrongFrameInWhatWasReadAhead(t *testing.T) {
	t.Parallel()
	for _, hdr := range []string{"", "Sec-WebSocket-Protocol: atls.v2\r\n"} {
		c, br, s := upgraded(t, frame(opText, strings.Repeat("x", 1000)), hdr)
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if op, _ := readFrame(t, br); op != opClose {
			t.Errorf("opcode %d", op)
		}
		if _, err := io.Copy(io.Discard, br); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("the carrier is still open")
		}
		if s != nil {
			if _, err := s.Read(make([]byte, 1)); err == nil || errors.Is(err, net.ErrClosed) {
				t.Errorf("read: %v", err)
			}
			_ = s.Close()
		}
	}
}

// TestWrongFramesAreRefused: by section 5 of the RFC, and told by status.
func TestWrongFramesAreRefused(t *testing.T) {
	t.Parallel()
	const key = "\x00\x00\x00\x00"
	for _, tt := range []struct {
		name, send string
		status     uint16
	}{
		{"length in too many bytes", "\x82\xfe\x00\x7d" + key, 1002},
		{"length in far too many bytes", "\x82\xff\x00\x00\x00\x00\x00\x00\xff\xff" + key, 1002},
		{"ping of a long form", "\x89\xfe\x00\x00" + key, 1002},
		{"highest bit of the length", "\x82\xff\x80\x00\x00\x00\x00\x00\x00\x00" + key, 1002},
		{"largest length", "\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff" + key, 1009},
		{"too much in parts", "\x02\x81" + key + "x\x80\xff\x7f\xff\xff\xff\xff\xff\xff\xff" + key, 1009},
		{"long ping", frame(opPing, strings.Repeat("x", 126)), 1002},
		{"ping in parts", "\x09\x80" + key, 1002},
		{"continuation of nothing", frame(opContinuation, "x"), 1002},
		{"message in a message", "\x02\x81" + key + "x" + frame(opBinary, "y"), 1002},
		{"close of one byte", frame(opClose, "x"), 1002},
		{"close of a status that is none", frame(opClose, "\x03\xed"), 1002},
		{"close of an abnormal end", frame(opClose, "\x03\xee"), 1002},
		{"close of a TLS failure", frame(opClose, "\x03\xf7"), 1002},
		{"close of a reserved status", frame(opClose, "\x03\xec"), 1002},
		{"close of an unknown status", frame(opClose, "\x07\xd0"), 1002},
		{"close of status 0", frame(opClose, "\x00\x00"), 1002},
		{"close of status 5000", frame(opClose, "\x13\x88"), 1002},
		{"close with a reason that is no text", frame(opClose, "\x03\xe8\xff"), 1007},
		{"close of an application's status", frame(opClose, "\x0f\xa0why"), 4000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, br, s := upgraded(t, tt.send)
			if op, p := readFrame(t, br); op != opClose || len(p) < 2 || binary.BigEndian.Uint16(p) != tt.status {
				t.Errorf("frame %d %q", op, p)
			}
			_ = c.Close()
			if _, err := io.ReadAll(s); err == nil { // nil is for an orderly end
				t.Error("it looks like an orderly end")
			}
		})
	}
}

// TestErrorsOfAcceptAreShort: they are logged, and anybody can cause them.
func TestErrorsOfAcceptAreShort(t *testing.T) {
	long := strings.Repeat("\xff", 100_000)
	for _, key := range []string{"Sec-Websocket-Key", "Sec-Websocket-Version", "Sec-Websocket-Protocol", "Origin"} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		for k, v := range upgrade {
			r.Header.Set(k, v)
		}
		r.Header.Set(key, long)
		a, b := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, b); _ = b.Close() }()
		_, err := Accept(&buffered{a, http.Header{}, bufio.NewReadWriter(bufio.NewReader(a), bufio.NewWriter(a))}, r, nil)
		if err == nil || len(err.Error()) > 2000 {
			t.Errorf("%s: %.100v", key, err)
		}
		_ = a.Close()
	}
}

// upgrade is the header of a request that is accepted.
var upgrade = map[string]string{
	"Connection": "Upgrade", "Upgrade": "websocket",
	"Sec-Websocket-Version": "13", "Sec-Websocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}

// carried is a Conn of a server and the other end of what carries it.
func carried(t *testing.T) (net.Conn, *Conn) {
	a, b := net.Pipe()
	c := newConn(newSender(a, a, false, false), nil, nil)
	t.Cleanup(func() { _ = b.Close(); _ = c.Close() })
	return b, c
}

// TestNothingFollowsACloseFrame: RFC 6455 section 5.5.1.
func TestNothingFollowsACloseFrame(t *testing.T) {
	t.Parallel()
	b, c := carried(t)
	c.rx.mu.Lock() // holds the read loop after it has answered
	_, _ = io.WriteString(b, frame(opClose, "\x03\xe8"))
	br := bufio.NewReader(b)
	if op, _ := readFrame(t, br); op != opClose {
		t.Fatalf("opcode %d", op)
	}
	if n, err := c.Write([]byte("late")); n != 0 || !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("%d, %v", n, err)
	}
	c.rx.mu.Unlock()
	if p, err := io.ReadAll(br); len(p) > 0 {
		t.Errorf("behind the close frame: %q, %v", p, err)
	}
}

// pingedOnWrite is a carrier by which a ping arrives whenever something is sent.
type pingedOnWrite struct {
	nothing
	s    *sender
	then func() // at the first
	sent []byte // opcodes

	block chan struct{} // what pongs wait for; may be nil
}

func (c *pingedOnWrite) Write(p []byte) (int, error) {
	c.sent = append(c.sent, p[0]&15)
	if p[0]&15 == opPong && c.block != nil {
		<-c.block
	}
	if len(c.sent) <= 1000 {
		c.s.answer([]byte("ping"))
	}
	if len(c.sent) == 1 {
		c.then()
	}
	return len(p), nil
}

func TestPingsDoNotHoldUpMessages(t *testing.T) {
	c := &pingedOnWrite{}
	c.s = newSender(c, nil, false, false)
	c.then = func() { _, _ = c.s.write([]byte("x")) }
	c.s.answer(nil)
	c.s.wait()
	if at := bytes.IndexByte(c.sent, opBinary); at != 1 {
		t.Errorf("a message is sent after %d pongs", at)
	}
}

func TestUncorkSendsOnlyWhatWasHeldBack(t *testing.T) {
	c := &pingedOnWrite{}
	c.s = newSender(c, nil, false, false)
	c.then = func() {}
	c.s.cork()
	_, _ = c.s.write([]byte("x"))
	c.block = make(chan struct{})
	c.s.uncork() // would wait for the pongs
	close(c.block)
	c.s.wait()
	if c.sent[0] != opBinary || len(c.sent) < 2 {
		t.Errorf("sent %d", c.sent[:2])
	}
}

func TestCloseSaysWhatWasNotSent(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, write string
		lost        bool
	}{
		{"all was sent", "", false},
		{"something was held back", "x", true},
	} {
		b, c := carried(t)
		c.Cork()
		if _, err := io.WriteString(c, tt.write); err != nil {
			t.Fatal(err)
		}
		_ = b.Close()
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Fatal("the carrier has ended")
		}
		<-c.readDone // the writing direction knows too
		if err := c.Close(); (err != nil) != tt.lost {
			t.Errorf("%s: close: %v", tt.name, err)
		}
	}
}

// buffered is a ResponseWriter that holds back the answer, as wrappers of
// net/http's do it.
type buffered struct {
	net.Conn
	header http.Header
	rw     *bufio.ReadWriter
}

func (b *buffered) Header() http.Header { return b.header }

func (b *buffered) WriteHeader(status int) {
	_, _ = fmt.Fprintf(b.rw, "HTTP/1.1 %d x\r\n", status)
	_ = b.header.Write(b.rw)
	_, _ = io.WriteString(b.rw, "\r\n")
}

func (b *buffered) Hijack() (net.Conn, *bufio.ReadWriter, error) { return b.Conn, b.rw, nil }

func TestAnswerThatIsHeldBackGoesOut(t *testing.T) {
	t.Parallel()
	a, b := net.Pipe()
	defer func() { _ = b.Close() }()
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	for k, v := range upgrade {
		r.Header.Set(k, v)
	}
	w := &buffered{a, http.Header{}, bufio.NewReadWriter(bufio.NewReader(a), bufio.NewWriter(a))}
	accepted := make(chan *Conn, 1)
	go func() {
		c, err := Accept(w, r, nil)
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	}()
	_ = b.SetReadDeadline(time.Now().Add(5 * time.Second))
	br := bufio.NewReader(b)
	if resp, err := http.ReadResponse(br, r); err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Errorf("%v %v", resp, err)
	}
	c := <-accepted
	_ = b.Close()
	if c != nil {
		_ = c.Close()
	}
}

func TestBytesBehindTheUpgradeAnswerAreRead(t *testing.T) {
	t.Parallel()
	early := strings.Repeat("early", 1000)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sum := sha1.Sum([]byte(r.Header.Get("Sec-Websocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-Websocket-Accept: %s\r\nSec-Websocket-Protocol: atls.v1\r\n\r\n\x82\x7e%s%s\x88\x00",
			base64.StdEncoding.EncodeToString(sum[:]), binary.BigEndian.AppendUint16(nil, uint16(len(early))), early)
		_, _ = io.Copy(io.Discard, conn)
	}))
	defer srv.Close()
	c, err := Dial(t.Context(), srv.URL, dialOptions(srv))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if got, err := io.ReadAll(c); err != nil || string(got) != early {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// broken is a carrier that takes nothing.
type broken struct{ nothing }

func (broken) Write([]byte) (int, error) { return 0, errors.New("broken") }

// TestPingBeforeTheEndOfABrokenCarrier: the goroutine for the pong may come late.
func TestPingBeforeTheEndOfABrokenCarrier(t *testing.T) {
	a, b := net.Pipe()
	defer func() { _ = b.Close() }()
	for range 1000 {
		s := newSender(broken{}, a, false, false)
		_, _ = s.write([]byte("x"))
		s.wait()
		s.answer([]byte("ping"))
		s.hangUp()
		s.wait()
	}
}

// TestUseFromAllSidesAtOnce is for the race detector, and ends.
func TestUseFromAllSidesAtOnce(t *testing.T) {
	t.Parallel()
	for _, pair := range []func(testing.TB) (*Conn, *Conn){piped, batched} {
		for range 5 {
			var all sync.WaitGroup
			a, b := pair(t)
			for i, c := range []*Conn{a, b, a, b} {
				all.Go(func() {
					p := make([]byte, 40_000)
					for {
						if _, err := c.Write(p); errors.Is(err, os.ErrDeadlineExceeded) {
							_ = c.SetWriteDeadline(time.Time{})
						} else if err != nil {
							return
						}
					}
				})
				all.Go(func() {
					p := make([]byte, 10_000)
					for {
						if _, err := c.Read(p); errors.Is(err, os.ErrDeadlineExceeded) {
							_ = c.SetReadDeadline(time.Time{})
						} else if err != nil {
							return
						}
					}
				})
				all.Go(func() {
					for {
						c.Cork()
						_, err := c.Write([]byte("corked"))
						c.Uncork()
						if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
							return
						}
					}
				})
				all.Go(func() {
					p := make([]byte, 10)
					for {
						came := make(chan struct{})
						if c.NotifyArrival(func() { close(came) }) && i < 2 {
							select {
							case <-came:
							case <-c.readDone:
							}
						}
						if _, err := c.ReadArrived(p); err != nil {
							return
						}
					}
				})
				all.Go(func() {
					for n := range 200 {
						c.tx.answer([]byte("ping"))
						_ = c.SetDeadline(time.Now().Add(time.Duration(n%5-2) * time.Millisecond))
					}
					_ = c.SetDeadline(time.Time{})
					_ = c.Close()
				})
			}
			all.Wait()
		}
	}
}
