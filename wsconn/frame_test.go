package wsconn

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/atls-ws/atls-ws/internal/outer"
)

// The other end is the library: what it sends in parts arrives, it reads what
// we send, and each answers the other's control frames.
func TestFramesAreUnderstoodByAnotherImplementation(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 125, 126, 127, 65535, 65536, MaxMessage, 100_000} {
		want := bytes.Repeat([]byte("0123456789abcde"), size/15+1)[:size]
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{Subprotocol}})
			if err != nil {
				return
			}
			defer func() { _ = ws.CloseNow() }()
			ws.SetReadLimit(-1)
			c := websocket.NetConn(context.Background(), ws, websocket.MessageBinary)
			got := make([]byte, size)
			if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes: the library read something else: %v", size, err)
			}
			m, _ := ws.Writer(context.Background(), websocket.MessageBinary)
			for p := want; len(p) > 0; p = p[min(len(p), 7777):] {
				_, _ = m.Write(p[:min(len(p), 7777)])
			}
			_ = m.Close()
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			go func() { _, _, _ = ws.Read(ctx) }() // takes the pong
			if err := ws.Ping(ctx); err != nil {
				t.Errorf("ping: %v", err)
			}
			_ = ws.Close(websocket.StatusNormalClosure, "")
		}))
		c, err := Dial(t.Context(), srv.URL, dialOptions(srv))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write(want)
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: read %d, %v", size, len(got), err)
		}
		_ = c.Close()
		srv.Close()
	}
}

func TestMaskIsItsOwnInverseAtAnyPlace(t *testing.T) {
	key := [4]byte{1, 2, 3, 4}
	want := bytes.Repeat([]byte{0x55}, 5000)
	for _, cut := range []int{0, 1, 3, 4, 1023, 1024, 1025, 4999, 5000} {
		p := bytes.Clone(want)
		mask(p, key, 0)
		for i := range p {
			if p[i] != 0x55^key[i%4] {
				t.Fatalf("byte %d is masked wrongly", i)
			}
		}
		mask(p[:cut], key, 0)
		mask(p[cut:], key, int64(cut))
		if !bytes.Equal(p, want) {
			t.Errorf("cut at %d", cut)
		}
	}
}

// corked writes are one message, and nothing waits for the next one.
func TestCorkGathersWrites(t *testing.T) {
	_, br, s := upgraded(t, "")
	s.Cork()
	for range 10 {
		_, _ = s.Write([]byte("0123456789"))
	}
	s.Uncork()
	if op, p := readFrame(t, br); op != opBinary || len(p) != 100 {
		t.Errorf("frame %d of %d bytes", op, len(p))
	}
	s.Cork()
	_, _ = s.Write([]byte("left"))
	go func() { _ = s.Close() }()
	if _, p := readFrame(t, br); string(p) != "left" {
		t.Errorf("Close sends %q of what is corked", p)
	}
}

func TestArrivalIsNotifiedOnce(t *testing.T) {
	c, s := pair(t, false)
	if n, err := s.ReadArrived(make([]byte, 1)); n != 0 || err != nil {
		t.Fatalf("nothing has arrived: %d, %v", n, err)
	}
	calls := make(chan struct{}, 9)
	if !s.NotifyArrival(func() { calls <- struct{}{} }) {
		t.Fatal("something has arrived")
	}
	_, _ = c.Write([]byte("abc"))
	<-calls
	if s.NotifyArrival(func() { calls <- struct{}{} }) {
		t.Error("it waits although there is something")
	}
	got := make([]byte, 9)
	if n, err := s.ReadArrived(got); string(got[:n]) != "abc" || err != nil {
		t.Errorf("%q, %v", got[:n], err)
	}
	if !s.NotifyArrival(func() { calls <- struct{}{} }) {
		t.Error("all was read")
	}
	_ = c.Close()
	<-calls
	if _, err := s.ReadArrived(got); err != io.EOF {
		t.Errorf("the end: %v", err)
	}
	if len(calls) > 0 {
		t.Error("called twice")
	}
}

// A TLS connection keeps room for the largest record it has received.
func TestFirstBytesAfterAPauseAreSmallRecords(t *testing.T) {
	a, b := net.Pipe()
	counted := &countingConn{Conn: a}
	go func() { _, _ = io.Copy(io.Discard, b) }()
	s := newSender(counted, counted, false, true)
	largest := func() (n int) {
		for _, w := range counted.writes {
			n = max(n, w)
		}
		counted.writes = nil
		return n
	}
	send := func(n int) {
		for ; n > 0; n -= MaxMessage {
			_, _ = s.write(make([]byte, MaxMessage))
			s.wait()
		}
	}
	send(smallWrites / 2)
	if n := largest(); n > smallWrite {
		t.Errorf("a first record of %d bytes", n)
	}
	send(smallWrites)
	if n := largest(); n < MaxMessage {
		t.Errorf("a long transfer has records of %d bytes", n)
	}
	s.last = s.last.Add(-2 * pauseAfter)
	send(MaxMessage)
	if n := largest(); n > smallWrite {
		t.Errorf("after a pause, a record of %d bytes", n)
	}
	_ = a.Close()
	_ = b.Close()
}

// No bytes of a stranger make more than an error of them.
func FuzzReceive(f *testing.F) {
	f.Add([]byte(frame(2, "data") + frame(9, "ping") + frame(8, "\x03\xe8bye")))
	f.Add([]byte("\x02\x81\x01\x02\x03\x04x" + frame(10, "") + "\x80\x81\x01\x02\x03\x04y"))
	f.Add([]byte("\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00"))
	f.Add([]byte("\x82\xfe\x01\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, p []byte) {
		c := &Conn{rx: newReceiver(), tx: newSender(nothing{}, nil, false, false)}
		c.frames.raw = bytes.NewReader(p)
		c.rx.close(net.ErrClosed) // what arrives is discarded
		var wrong *frameError
		var bye *closeError
		if err := c.receive(); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.As(err, &wrong) && !errors.As(err, &bye) {
			t.Errorf("%v", err)
		}
		c.tx.wait()
	})
}

// What a reader sees does not depend on how the bytes come: it is what a slower
// reading of the RFC makes of them.
func FuzzStream(f *testing.F) {
	f.Add([]byte(frame(2, "data")+frame(9, "ping")+frame(8, "\x03\xe8bye")), uint8(3), true)
	f.Add([]byte("\x02\x81\x01\x02\x03\x04x"+frame(10, "")+"\x80\x83\x01\x02\x03\x04yyy"), uint8(200), true)
	f.Add([]byte(frame(2, strings.Repeat("0123456789", 100))), uint8(0), false)
	f.Add([]byte("\x82\xff\x00\x00\x00\x00\x00\x01\x00\x00\x01\x02\x03\x04"+strings.Repeat("x", 1<<16)+frame(2, "y")), uint8(255), true)
	f.Fuzz(func(t *testing.T, p []byte, step uint8, behind bool) {
		c := &Conn{rx: newReceiver(), tx: newSender(nothing{}, nil, false, false), readDone: make(chan struct{})}
		raw := &steps{p: p, n: int(step) + 1}
		c.frames.raw = raw
		if behind { // the upgrade
			k := min(len(p), raw.n)
			raw.p = p[k:]
			c.frames.raw = &ahead{head: p[:k], frames: &c.frames, raw: raw}
		}
		var end error
		go func() {
			defer close(c.readDone)
			end = c.receive()
			c.rx.fail(io.EOF)
		}()
		got, err := io.ReadAll(c)
		if err != nil {
			t.Fatal(err)
		}
		<-c.readDone
		c.tx.wait()
		if c.rx.ring != nil {
			t.Error("an end without a reader keeps a buffer")
		}
		want, status := slowly(p)
		if !bytes.Equal(got, want) {
			t.Errorf("read %d bytes, want %d", len(got), len(want))
		}
		var wrong *frameError
		var bye *closeError
		told := uint16(0)
		switch {
		case errors.As(end, &wrong):
			told = wrong.status
		case errors.As(end, &bye):
			told = bye.status
		}
		if told != status {
			t.Errorf("ends with %v, want status %d", end, status)
		}
	})
}

// steps reads at most n bytes at a time.
type steps struct {
	p []byte
	n int
}

func (s *steps) Read(p []byte) (int, error) {
	if len(s.p) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.p[:min(s.n, len(s.p))])
	s.p = s.p[n:]
	return n, nil
}

// slowly is what a client has sent, and the status of its end: 0 when it was cut.
func slowly(p []byte) (data []byte, status uint16) {
	message := -1
	for {
		if len(p) < 2 {
			return data, 0
		}
		b0, n, at := p[0], uint64(p[1]&127), 2
		if b0&0x70 != 0 {
			return data, 1002
		}
		size := map[uint64]int{126: 2, 127: 8}[n]
		at += size
		masked := p[1]&128 != 0
		if masked {
			at += 4
		}
		if len(p) < at {
			return data, 0
		}
		if size > 0 {
			n = 0
			for _, b := range p[2 : 2+size] {
				n = n<<8 | uint64(b)
			}
			if n < map[int]uint64{2: 126, 8: 65536}[size] || n > 1<<63-1 {
				return data, 1002
			}
		}
		op := b0 & 15
		switch {
		case !masked, op > 2 && op < 8, op > 10, op >= 8 && (n > 125 || b0 < 128):
			return data, 1002
		case op == opText:
			return data, 1003
		case op < 8 && (op == opContinuation) != (message >= 0):
			return data, 1002
		case op < 8 && uint64(max(message, 0))+n > 128<<10:
			return data, 1009
		}
		body := bytes.Clone(p[at:min(uint64(len(p)), uint64(at)+n)])
		for i := range body {
			body[i] ^= p[at-4+i%4]
		}
		if op < 8 {
			data = append(data, body...)
			message = max(message, 0) + int(n)
			if b0 >= 128 {
				message = -1
			}
		}
		if uint64(len(p)) < uint64(at)+n {
			return data, 0
		}
		if op == opClose {
			return data, slowStatus(body)
		}
		p = p[uint64(at)+n:]
	}
}

func slowStatus(body []byte) uint16 {
	if len(body) == 0 {
		return 1005
	}
	if len(body) == 1 {
		return 1002
	}
	status := uint16(body[0])<<8 | uint16(body[1])
	switch status {
	case 1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014:
	default:
		if status < 3000 || status > 4999 {
			return 1002
		}
	}
	if strings.ToValidUTF8(string(body[2:]), "\x00\x00") != string(body[2:]) {
		return 1007
	}
	return status
}

// nothing takes everything.
type nothing struct{}

func (nothing) Read([]byte) (int, error)    { return 0, io.EOF }
func (nothing) Write(p []byte) (int, error) { return len(p), nil }
func (nothing) Close() error                { return nil }

func BenchmarkMask(b *testing.B) {
	p := make([]byte, MaxMessage)
	b.SetBytes(MaxMessage)
	for b.Loop() {
		mask(p, [4]byte{1, 2, 3, 4}, 0)
	}
}

// lowest is a TCP connection, for who asks for its buffer.
type lowest struct {
	net.Conn
	n int
}

func (b *lowest) SetWriteBuffer(n int) error { b.n = n; return nil }

func TestWriteBufferIsThatOfTheLowestConnection(t *testing.T) {
	tcp := &lowest{}
	c := &Conn{tx: newSender(nothing{}, outer.NewBatch(tcp), false, true)}
	if err := c.SetWriteBuffer(1000); err != nil || tcp.n != 1000 {
		t.Errorf("%d, %v", tcp.n, err)
	}
}
