package session

import (
	"bytes"
	"crypto/tls"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// farConn is a connection on which what is written is long under way.
type farConn struct {
	net.Conn
	way    time.Duration
	sent   chan parcel
	buffer int // that was asked for
}

type parcel struct {
	due  time.Time
	data []byte
}

func newFarConn(t *testing.T, c net.Conn, way time.Duration) *farConn {
	f := &farConn{Conn: c, way: way, sent: make(chan parcel, 1000)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for p := range f.sent {
			time.Sleep(time.Until(p.due))
			_, _ = c.Write(p.data)
		}
	}()
	t.Cleanup(func() { close(f.sent); <-done })
	return f
}

func (c *farConn) SetWriteBuffer(n int) error { c.buffer = n; return nil }

func (c *farConn) Write(p []byte) (int, error) {
	c.sent <- parcel{time.Now().Add(c.way), bytes.Clone(p)}
	return len(p), nil
}

// slowTurn has one wait for it each time.
type slowTurn time.Duration

func (s slowTurn) Aside() func() { return func() { time.Sleep(time.Duration(s)) } }

// How long a peer takes decides on its windows, and Ready says what that leaves
// of its streams. In a storm this end is what is slow, and not the peer.
func TestWindowsFollowTheRoundTrip(t *testing.T) {
	testCerts()
	for _, tt := range []struct {
		way, turn time.Duration // there or back
		window    uint32
		streams   int
	}{
		{0, 0, smallWindow, DefaultStreams},
		{6 * time.Millisecond, 0, middleWindow, 128},
		{15 * time.Millisecond, 0, largeWindow, 64},
		{time.Second, 0, farWindow, 32},
		{0, time.Second, smallWindow, DefaultStreams},
	} {
		synctest.Test(t, func(t *testing.T) {
			device := testCerts().clientTLS()
			device.ClientSessionCache = tls.NewLRUClientSessionCache(1) // a ticket is written before the hello is read
			acceptor, err := NewAcceptor(&Config{TLS: testCerts().serverTLS()})
			check(err)
			for _, resumed := range []bool{false, true} {
				a, b := net.Pipe()
				near, far := newFarConn(t, newArrivingConn(a), tt.way), newFarConn(t, newArrivingConn(b), tt.way)
				var s *Session
				var wg sync.WaitGroup
				wg.Go(func() {
					in, err := acceptor.Accept(t.Context(), far, slowTurn(tt.turn))
					check(err)
					s, err = in.Session(t.Context())
					check(err)
				})
				c, err := Client(t.Context(), near, &Config{TLS: device, Hello: func() (h Hello) {
					time.Sleep(time.Millisecond) // it arrives a little after the end of the handshake
					return h
				}})
				wg.Wait()
				check(err)
				if c.ConnectionState().DidResume != resumed {
					t.Errorf("resumed: %t", !resumed)
				}
				if w := s.window; w != tt.window {
					t.Errorf("a way of %s, %s for a turn: a window of %d, want %d", tt.way, tt.turn, w, tt.window)
				}
				if w := c.window; w < tt.window { // the device sees the turn as a way
					t.Errorf("a way of %s, resumed %t: the device's window is %d, want %d", tt.way, resumed, w, tt.window)
				}
				if set := far.buffer == nearBuffer; set != (tt.way == 0) {
					t.Errorf("a way of %s: the server's buffer is %d", tt.way, far.buffer)
				}
				if set := near.buffer == nearBuffer; set != (tt.way+tt.turn == 0) {
					t.Errorf("a way of %s, %s for a turn: the device's buffer is %d", tt.way, tt.turn, near.buffer)
				}
				if n := c.Ready().Streams; n != tt.streams {
					t.Errorf("a way of %s: ready says %d streams, want %d", tt.way, n, tt.streams)
				}
				_, _ = c.Close(), s.Close()
			}
		})
	}
}

// What is refused because of too many streams has a window until then.
func TestStreamsStayWithinTheBudget(t *testing.T) {
	for _, unread := range []int{0, 1, 8 << 20, 50 << 20, 1 << 30} {
		for _, rtt := range []time.Duration{0, 10 * time.Millisecond, 30 * time.Millisecond, time.Second} {
			c := (&Config{Streams: 1 << 20, Unread: unread}).complete()
			w := c.windowFor(rtt)
			if n := c.streams(w); n < enoughStreams {
				t.Errorf("%d bytes, %s: room for %d streams", unread, rtt, n)
			}
			if all := (c.streams(w) + refusals(w)) * int(w); all > max(c.Unread+c.Unread/8, c.Unread+acceptBacklog*smallWindow) {
				t.Errorf("%d bytes, %s: %d in all", c.Unread, rtt, all)
			}
		}
	}
}

// A stream for whose window there is no room is told from one too many.
func TestStreamWithoutRoomIsCountedAsUnread(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		a, b := net.Pipe()
		told := make(chan Limit, 100)
		server := &Config{Unread: MinUnread, Limited: func(l Limit) { told <- l }}
		e := connect(t, newArrivingConn(a), newArrivingConn(b), &Config{}, server)
		if n := e.client.Ready().Streams; n != enoughStreams {
			t.Fatalf("ready says %d streams, want %d", n, enoughStreams)
		}
		for range enoughStreams + 1 {
			ys, err := e.client.openStream() // without a header the server waits for one
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = ys.Close() }()
			synctest.Wait()
		}
		if len(told) != 1 {
			t.Fatalf("%d limits, want one", len(told))
		}
		if l := <-told; l != LimitUnread {
			t.Errorf("limit %s, want %s", l, LimitUnread)
		}
	})
}
