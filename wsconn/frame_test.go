package wsconn

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/coder/websocket"
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
