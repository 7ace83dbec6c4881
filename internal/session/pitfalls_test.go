package session

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/yamux"
)

// countingConn counts writes and can hold them.
type countingConn struct {
	net.Conn
	mu     sync.Mutex
	writes int
	gate   chan struct{} // nil: open; writes wait until it is closed
	closed chan struct{}
	once   sync.Once
}

func newCountingConn(c net.Conn) *countingConn {
	return &countingConn{Conn: c, closed: make(chan struct{})}
}

func (c *countingConn) hold() (release func()) {
	gate := make(chan struct{})
	c.mu.Lock()
	c.gate = gate
	c.mu.Unlock()
	return sync.OnceFunc(func() { close(gate) })
}

func (c *countingConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.writes++
	gate := c.gate
	c.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-c.closed:
			return 0, net.ErrClosed
		}
	}
	return c.Conn.Write(p)
}

func (c *countingConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// Header and body are two Writes of yamux: they must share a record. And what
// is written while the connection is busy must share the next.
func TestWritesAreJoined(t *testing.T) {
	a, b := tcpPipe(t)
	counted := newCountingConn(a)
	mux := new(Mux)
	echo(t, mux, "echo")
	e := connect(t, counted, b, nil, &Config{Mux: mux})
	conn, err := e.client.Dial(t.Context(), "echo")
	if err != nil {
		t.Fatal(err)
	}
	release := counted.hold()
	before := counted.writes
	for range 500 {
		if _, err := conn.Write(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	release()
	if _, err := io.ReadFull(conn, make([]byte, 50_000)); err != nil {
		t.Fatal(err)
	}
	counted.mu.Lock()
	defer counted.mu.Unlock()
	// 500 writes of 112 bytes: one for the first, then records of 16 KiB, and a
	// few for window updates.
	if n := counted.writes - before; n > 20 {
		t.Errorf("500 small writes took %d of the carrier's", n)
	}
}

// With yamux's own timeout a write fails while the link is only slow, and
// leaves the session up with the peer's Read hung (GHSA-29qp-crvh-w22m).
func TestASlowLinkIsNotAnError(t *testing.T) {
	bubble(t, func(t *testing.T, e ends, link *countingConn) {
		release := link.hold()
		time.AfterFunc(60*time.Second, release)
		st, err := dialIn(t, e)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := st.Write([]byte("x")); err != nil {
			t.Errorf("write over a link that was held for a minute: %v", err)
		}
	})
}

// StreamOpenTimeout would close the whole session; ctx ends the one dial.
func TestAnUnansweredDialLeavesTheSession(t *testing.T) {
	bubble(t, func(t *testing.T, e ends, link *countingConn) {
		release := link.hold()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := e.client.Dial(ctx, "echo"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dial: %v", err)
		}
		release()
		time.Sleep(time.Second)
		if _, err := dialIn(t, e); err != nil {
			t.Errorf("the session is gone: %v", err)
		}
	})
}

// A peer that is silent for 75 s is dead, on both sides, also while this side
// has data to send that goes nowhere.
func TestDeadPeerIsNoticedUnderLoad(t *testing.T) {
	bubble(t, func(t *testing.T, e ends, link *countingConn) {
		st, err := dialIn(t, e)
		if err != nil {
			t.Fatal(err)
		}
		_ = link.hold() // the client's bytes, its pongs too, go nowhere
		go func() {
			for {
				if _, err := st.Write(make([]byte, 32<<10)); err != nil {
					return
				}
			}
		}()
		start := time.Now()
		<-e.server.Done()
		if d := time.Since(start); !errors.Is(e.server.Err(), ErrDead) || d < 50*time.Second || d > 75*time.Second {
			t.Errorf("server: %v after %s", e.server.Err(), d)
		}
		<-e.client.Done()
	})
}

// An idle session lives, for pings keep it.
func TestIdleSessionLives(t *testing.T) {
	bubble(t, func(t *testing.T, e ends, _ *countingConn) {
		time.Sleep(time.Hour)
		if e.client.Err() != nil || e.server.Err() != nil {
			t.Errorf("client %v, server %v", e.client.Err(), e.server.Err())
		}
	})
}

// Session.Close of yamux waits for its reader and sender: Close must unblock
// both, also when the peer takes nothing.
func TestCloseIsBoundedWhenThePeerTakesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, e ends, link *countingConn) {
		st, err := dialIn(t, e)
		if err != nil {
			t.Fatal(err)
		}
		_ = link.hold()
		_, _ = st.Write(make([]byte, 16<<10))
		start := time.Now()
		_ = e.client.Close()
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("Close took %s", d)
		}
	})
}

// yamux has no reset: a peer that goes on sending into a closed stream would
// keep its slot and its window for ever.
func TestAStreamThatIsNotEndedIsReset(t *testing.T) {
	bubble(t, func(t *testing.T, e ends, _ *countingConn) {
		l, err := e.server.cfg.Mux.Listen("sink")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		conn, err := e.client.Dial(t.Context(), "sink")
		if err != nil {
			t.Fatal(err)
		}
		sink, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_ = sink.Close()
		time.Sleep(2 * discardAfter)
		if _, err := conn.Write([]byte("x")); err == nil || !errors.Is(err, yamux.ErrConnectionReset) {
			t.Errorf("write into a stream closed long ago: %v", err)
		}
		time.Sleep(time.Minute) // a ping goes by and lets yamux here forget it too
		if n := e.server.Streams(); n != 0 {
			t.Errorf("%d streams still count", n)
		}
		if n := e.server.mux.streams(); n != 0 {
			t.Errorf("yamux keeps %d streams", n)
		}
	})
}

// A half-closed stream in use must not be cut: StreamCloseTimeout would.
func TestHalfClosedStreamLivesOn(t *testing.T) {
	bubble(t, func(t *testing.T, e ends, _ *countingConn) {
		l, err := e.server.cfg.Mux.Listen("slow")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		conn, err := e.client.Dial(t.Context(), "slow")
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.(*Stream).CloseWrite()
		slow, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		_, _ = slow.Write([]byte("late"))
		_ = slow.Close()
		if b, err := io.ReadAll(conn); string(b) != "late" || err != nil {
			t.Errorf("%q, %v", b, err)
		}
		_ = conn.Close()
	})
}

// A stream's write deadline holds although yamux looks at its own only when
// the window is full.
func TestPastWriteDeadlineWritesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, e ends, _ *countingConn) {
		st, err := dialIn(t, e)
		if err != nil {
			t.Fatal(err)
		}
		_ = st.SetWriteDeadline(time.Now().Add(-time.Second))
		if n, err := st.Write([]byte("x")); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%d, %v", n, err)
		}
	})
}

// A hostile peer opens streams without end and never sends their header.
func TestFloodOfStreamsIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T, e ends, _ *countingConn) {
		for i := range uint32(5000) {
			e.client.frames.cutIn(frame(frameWindow, flagSYN, 10_001+2*i, 0))
			if i%100 == 0 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		if n := e.server.Streams(); n > DefaultStreams+acceptBacklog {
			t.Errorf("%d streams of one peer", n)
		}
		time.Sleep(time.Minute)
		if n := e.server.Streams(); n != 0 {
			t.Errorf("%d streams after their headers' time", n)
		}
	})
}

func TestBoundsFollowFrames(t *testing.T) {
	data := frame(frameData, 0, 1, 5)
	all := append(append(append([]byte{}, data...), "12345"...), frame(framePing, 0, 0, 1<<31)...)
	for cut := range all {
		var b bounds
		b.pass(all[:cut])
		if want := cut == 0 || cut == 17; b.at() != want {
			t.Errorf("after %d bytes: at a boundary: %v", cut, b.at())
		}
		b.pass(all[cut:])
		if !b.at() {
			t.Errorf("cut at %d: not at a boundary at the end", cut)
		}
	}
	if binary.BigEndian.Uint32(data[8:]) != 5 {
		t.Error("length")
	}
}

func dialIn(t *testing.T, e ends) (net.Conn, error) {
	t.Helper()
	conn, err := e.client.Dial(t.Context(), "echo")
	if err == nil {
		t.Cleanup(func() { _ = conn.Close() })
	}
	return conn, err
}

// bubble runs fn with a session in fake time.
func bubble(t *testing.T, fn func(*testing.T, ends, *countingConn)) {
	t.Helper()
	fakeTime(t, func(t *testing.T) {
		a, b := net.Pipe()
		link := newCountingConn(a)
		mux := new(Mux)
		echo(t, mux, "echo")
		fn(t, connect(t, link, b, nil, &Config{Mux: mux}), link)
	})
}

// fakeTime runs fn in a bubble.
func fakeTime(t *testing.T, fn func(*testing.T)) {
	t.Helper()
	testCerts() // outside: keys take real time
	// yamux keeps timers in a pool; one made outside must not come in.
	runtime.GC()
	runtime.GC()
	synctest.Test(t, fn)
	runtime.GC()
	runtime.GC()
}

// What broke must not look like what ended.
func TestResetIsAnErrorForThePeer(t *testing.T) {
	bubble(t, func(t *testing.T, e ends, _ *countingConn) {
		l, err := e.server.cfg.Mux.Listen("broken")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		conn, err := e.client.Dial(t.Context(), "broken")
		if err != nil {
			t.Fatal(err)
		}
		broken, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		broken.(*Stream).Reset()
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, yamux.ErrConnectionReset) {
			t.Errorf("read: %v, want a reset", err)
		}
		_ = conn.Close()
		if n := e.server.Streams(); n != 0 {
			t.Errorf("%d streams still count", n)
		}
	})
}

// A peer that is in doubt has to answer within what its owner gives it, and one
// that answers loses nothing.
func TestProbeFindsADeadPeer(t *testing.T) {
	bubble(t, func(t *testing.T, e ends, link *countingConn) {
		e.client.Probe(2 * time.Second)
		time.Sleep(3 * time.Second) // the server's own pings begin later
		if err := e.client.Err(); err != nil {
			t.Fatal(err)
		}
		_ = link.hold() // the client's bytes go nowhere
		start := time.Now()
		e.client.Probe(10 * time.Second)
		<-e.client.Done()
		if d := time.Since(start); !errors.Is(e.client.Err(), ErrDead) || d != 10*time.Second {
			t.Errorf("%v after %s", e.client.Err(), d)
		}
	})
}
