package session

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// yamux writes a header and then its body. Held back between the two, nothing
// could be sent any more: the flusher waits for the frame's end.
func TestAFullBufferDoesNotSplitAFrame(t *testing.T) {
	bubble(t, func(t *testing.T, e ends, link *countingConn) {
		st, err := dialIn(t, e)
		if err != nil {
			t.Fatal(err)
		}
		release := link.hold()
		if _, err := st.Write([]byte("x")); err != nil { // is on its way, and held
			t.Fatal(err)
		}
		synctest.Wait()
		const n = 8191 - frameHead // 8 such frames are 8 bytes less than maxPending
		sent := make(chan error, 1)
		go func() {
			for range 9 {
				if _, err := st.Write(make([]byte, n)); err != nil {
					sent <- err
					return
				}
			}
			sent <- nil
		}()
		synctest.Wait()
		release()
		_ = st.SetReadDeadline(time.Now().Add(10 * time.Second))
		if got, err := io.ReadFull(st, make([]byte, 1+9*n)); err != nil {
			t.Errorf("%d bytes came back: %v", got, err)
		}
		_ = e.client.Close()
		if err := <-sent; err != nil {
			t.Error(err)
		}
	})
}

// yamux answers each ping in a goroutine of its own, which waits while the
// peer takes nothing.
func TestPingFloodIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T, e ends, link *countingConn) {
		before := runtime.NumGoroutine()
		_ = link.hold() // the client's pongs go nowhere
		for i := range uint32(20_000) {
			e.server.frames.ping(i)
			if i%50 == 0 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		if n := runtime.NumGoroutine() - before; n > 500 {
			t.Errorf("%d goroutines", n)
		}
		if err := e.client.Err(); !errors.Is(err, errProtocol) {
			t.Errorf("the session ended with %v", err)
		}
	})
}

// A stream that waits to be accepted fails first, with an error of no meaning.
func TestABrokenProtocolIsNamedWhileAStreamWaits(t *testing.T) {
	for range 20 { // it is a race within yamux
		a, b := tcpPipe(t)
		e := connect(t, a, b, nil, nil)
		syn := frame(frameWindow, flagSYN, 1, 0)
		e.client.frames.cutIn(slices.Concat(syn, syn))
		<-e.server.Done()
		if err := e.server.Err(); !errors.Is(err, errProtocol) {
			t.Fatalf("the session ended with %v", err)
		}
	}
}

// failingWrites is a connection whose writes fail and whose reads go on.
type failingWrites struct {
	net.Conn
	fail chan struct{}
}

func (c *failingWrites) Write(p []byte) (int, error) {
	select {
	case <-c.fail:
		return 0, errors.New("broken")
	default:
		return c.Conn.Write(p)
	}
}

// An idle yamux would find out with its next write, at the next ping.
func TestAFailedWriteEndsTheSession(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		a, b := net.Pipe()
		broken := &failingWrites{Conn: a, fail: make(chan struct{})}
		e := connect(t, broken, b, nil, nil)
		close(broken.fail)
		start := time.Now()
		e.client.frames.ping(0)
		<-e.client.Done()
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("after %s: %v", d, e.client.Err())
		}
	})
}

// Signals and their acks must not wait behind the bulk data of other streams.
func TestFramesOfASignalStreamOvertakeBulk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer, release := heldFrames(t)
		c.hurry(5)
		writeFrame(c, 1, "bulk")
		writeFrame(c, 5, "signal")
		writeFrame(c, 1, "more")
		c.forget(5)
		writeFrame(c, 5, "end")
		release()
		const want = "on its way" + "signal" + "bulk" + "more" + "end"
		if got := readBodies(t, peer, len(want)); got != want {
			t.Errorf("sent %q, want %q", got, want)
		}
		_ = peer.Close()
		_ = c.Close()
	})
}

// heldFrames is a frameConn whose flusher has something to send and cannot.
func heldFrames(t *testing.T) (c *frameConn, peer net.Conn, release func()) {
	t.Helper()
	a, b := net.Pipe()
	link := newCountingConn(a)
	release = link.hold()
	c = newFrameConn(link, newLimitedConn(link), link)
	writeFrame(c, 1, "on its way")
	synctest.Wait()
	return c, b, release
}

func writeFrame(c *frameConn, stream uint32, body string) {
	_, _ = c.Write(frame(frameData, 0, stream, uint32(len(body))))
	_, _ = c.Write([]byte(body))
}

// readBodies reads data frames until their bodies are n bytes.
func readBodies(t *testing.T, peer net.Conn, n int) string {
	t.Helper()
	got := ""
	for len(got) < n {
		head := make([]byte, frameHead)
		if _, err := io.ReadFull(peer, head); err != nil {
			t.Fatal(err)
		}
		body := make([]byte, binary.BigEndian.Uint32(head[8:]))
		if _, err := io.ReadFull(peer, body); err != nil {
			t.Fatal(err)
		}
		got += string(body)
	}
	return got
}

// A peer that sends signals and takes nothing would else make acks without end.
func TestUrgentFramesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer, release := heldFrames(t)
		c.hurry(5)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range 100 {
				writeFrame(c, 5, string(make([]byte, 4<<10)))
			}
		}()
		synctest.Wait()
		c.tx.Lock()
		n := len(c.tx.first)
		c.tx.Unlock()
		if n > maxPending+frameHead+writeChunk {
			t.Errorf("%d bytes wait", n)
		}
		release()
		readBodies(t, peer, 10+100*4<<10)
		<-done
		_ = peer.Close()
		_ = c.Close()
	})
}

// A peer may send signals before it has our answer; the acks must not overtake that.
func TestAStreamDoesNotOvertakeItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer, release := heldFrames(t)
		writeFrame(c, 5, " answer")
		c.hurry(5)
		writeFrame(c, 5, " ack")
		release()
		if got := readBodies(t, peer, 21); got != "on its way answer ack" {
			t.Errorf("sent %q", got)
		}
		_ = peer.Close()
		_ = c.Close()
	})
}
