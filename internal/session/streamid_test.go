package session

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"time"
)

// A frame that the peer sent for a stream of an earlier yamux must not reach
// the stream that has its number in the next one.
func TestLateFrameReachesNoNewStream(t *testing.T) {
	restBubble(t, func(t *testing.T, e ends) {
		for round := range uint32(3) {
			st, err := dialIn(t, e)
			if err != nil {
				t.Fatal(err)
			}
			if round > 0 { // as if the stream of the round before were not reset yet over there
				late := append(frame(frameData, 0, 2*round-1, 4), "late"...)
				e.server.frames.cutIn(late)
			}
			if _, err := st.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			p := make([]byte, 8)
			if n, err := st.Read(p); err != nil || string(p[:n]) != "x" {
				t.Fatalf("round %d: read %q, %v", round, p[:n], err)
			}
			_ = st.Close()
			time.Sleep(10 * time.Minute)
			if !resting(e.client) || !resting(e.server) {
				t.Fatalf("round %d: does not rest", round)
			}
			if got, want := e.client.frames.before.Load(), 2*(round+1); got != want {
				t.Fatalf("round %d: %d ids are used, want %d", round, got, want)
			}
		}
	})
}

func TestLateResetReachesNoNewStream(t *testing.T) {
	restBubble(t, func(t *testing.T, e ends) {
		old, err := dialIn(t, e)
		if err != nil {
			t.Fatal(err)
		}
		_ = old.Close()
		time.Sleep(10 * time.Minute)
		st, err := dialIn(t, e)
		if err != nil {
			t.Fatal(err)
		}
		e.client.reset(old.(*Stream).ys)
		if _, err := st.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if n, err := st.Read(make([]byte, 8)); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		_ = st.Close()
	})
}

func TestStreamIDsRise(t *testing.T) {
	for parity, ids := range map[uint32][]uint32{1: {1, 3, 5}, 0: {2, 4, 6}} {
		s := &streamIDs{parity: parity}
		var wire []uint32
		for range 3 {
			for _, id := range ids {
				h := frame(frameWindow, flagSYN, id, 0)
				s.outward(h)
				wire = append(wire, binary.BigEndian.Uint32(h[4:]))
				binary.BigEndian.PutUint16(h[2:], flagACK)
				if known, err := s.inward(h); !known || err != nil || binary.BigEndian.Uint32(h[4:]) != id {
					t.Errorf("id %d comes back as %d, %v, %v", id, binary.BigEndian.Uint32(h[4:]), known, err)
				}
			}
			s.next(ids[2])
		}
		if !slices.IsSorted(wire) || len(slices.Compact(wire)) != 9 {
			t.Errorf("ids on the wire: %v", wire)
		}
		if known, err := s.inward(frame(frameData, 0, wire[8], 4)); known || err != nil {
			t.Errorf("a stream of an earlier yamux: known %v, %v", known, err)
		}
		if _, err := s.inward(frame(frameWindow, flagSYN, wire[8]+2, 0)); !errors.Is(err, errStreamID) {
			t.Errorf("a stream that the peer opens with an id of ours: %v", err)
		}
		if known, err := s.inward(frame(frameWindow, flagSYN, 1+parity, 0)); !known || err != nil {
			t.Errorf("a stream of the peer's: known %v, %v", known, err)
		}
	}
}
