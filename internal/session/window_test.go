package session

import (
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// lateConn is a connection whose answers come late.
type lateConn struct {
	net.Conn
	by time.Duration
}

func (c lateConn) Write(p []byte) (int, error) {
	time.Sleep(c.by)
	return c.Conn.Write(p)
}

// slowTurns has one wait for each turn.
type slowTurns time.Duration

func (s slowTurns) Take() { time.Sleep(time.Duration(s)) }
func (slowTurns) Give()   {}

// How long a peer takes decides on its windows, and Ready says what that leaves
// of its streams. In a storm this end is what is slow, and not the peer.
func TestWindowsFollowTheRoundTrip(t *testing.T) {
	testCerts()
	for _, tt := range []struct {
		late, turn time.Duration
		window     uint32
		streams    int
	}{
		{0, 0, smallWindow, DefaultStreams},
		{30 * time.Millisecond, 0, largeWindow, 64},
		{time.Second, 0, farWindow, 32},
		{0, time.Second, smallWindow, DefaultStreams},
	} {
		synctest.Test(t, func(t *testing.T) {
			a, b := net.Pipe()
			cfg := &Config{}
			if tt.turn > 0 {
				cfg.Turns = slowTurns(tt.turn)
			}
			e := connect(t, lateConn{newArrivingConn(a), tt.late}, newArrivingConn(b), nil, cfg)
			if w := e.server.window; w != tt.window {
				t.Errorf("%s late, %s for a turn: a window of %d, want %d", tt.late, tt.turn, w, tt.window)
			}
			if n := e.client.Ready().Streams; n != tt.streams {
				t.Errorf("%s late: ready says %d streams, want %d", tt.late, n, tt.streams)
			}
		})
	}
}

// What is refused because of too many streams has a window until then.
func TestStreamsStayWithinTheBudget(t *testing.T) {
	for _, w := range []uint32{smallWindow, middleWindow, largeWindow, farWindow} {
		c := (&Config{Streams: 1 << 20}).complete()
		if got := (c.streams(w) + refusals(w)) * int(w); got > windowBudget+windowBudget/8 {
			t.Errorf("windows of %d: %d in all", w, got)
		}
	}
}
