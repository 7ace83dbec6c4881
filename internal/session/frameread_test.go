package session

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
)

// cutConn is an inner connection whose reads bring what they like of a stream.
type cutConn struct {
	net.Conn
	data []byte
	cuts []byte
	next int
}

func (c *cutConn) Read(p []byte) (int, error) {
	if len(c.data) == 0 {
		return 0, io.EOF
	}
	n := len(p)
	if len(c.cuts) > 0 {
		n = min(n, 1+int(c.cuts[c.next%len(c.cuts)]))
		c.next++
	}
	n = copy(p[:n], c.data)
	c.data = c.data[n:]
	return n, nil
}

// wholeFrames is what yamux must see of a stream that is in one piece.
func wholeFrames(in []byte, parity, before uint32) (out []byte, err error) {
	pings := 0
	for len(in) >= frameHead {
		head := bytes.Clone(in[:frameHead])
		in = in[frameHead:]
		flags, id, value := binary.BigEndian.Uint16(head[2:]), binary.BigEndian.Uint32(head[4:]), binary.BigEndian.Uint32(head[8:])
		if head[0] == 0 && head[1] == framePing {
			if flags&flagSYN != 0 {
				if pings++; pings > maxPings {
					return out, errPings
				}
			}
			continue
		}
		body := 0
		if head[1] == frameData {
			body = int(min(uint64(value), uint64(len(in))))
		}
		if id != 0 && id%2 == parity {
			if flags&flagSYN != 0 {
				return out, errStreamID
			}
			if id <= before {
				in = in[body:]
				continue
			}
			binary.BigEndian.PutUint32(head[4:], id-before)
		}
		out = append(append(out, head...), in[:body]...)
		in = in[body:]
	}
	return out, io.EOF
}

// However a stream is cut, and whatever is in it, yamux sees the same.
func FuzzFrameReader(f *testing.F) {
	data := append(frame(frameData, 0, 1, 5), "12345"...)
	for _, parity := range []bool{true, false} {
		for _, cuts := range []string{"", "\x00", "\x0b", "\x10\x02\x80"} {
			f.Add(bytes.Join([][]byte{frame(framePing, flagSYN, 0, 7), data, frame(frameWindow, flagSYN, 3, 0), frame(framePing, flagACK, 0, 9), data}, nil), []byte(cuts), uint32(0), parity, uint16(4096))
			f.Add(bytes.Join([][]byte{data, frame(frameWindow, flagSYN, 2, 0), data}, nil), []byte(cuts), uint32(2), parity, uint16(10))
			f.Add(bytes.Join([][]byte{frame(frameData, 0, 1, 1<<32-1), data}, nil), []byte(cuts), uint32(2), parity, uint16(13))
			f.Add(bytes.Repeat(frame(framePing, flagSYN, 0, 7), maxPings+1), []byte(cuts), uint32(2), parity, uint16(100))
		}
	}
	f.Fuzz(func(t *testing.T, in, cuts []byte, before uint32, client bool, size uint16) {
		if size == 0 {
			return
		}
		conn := &cutConn{data: bytes.Clone(in), cuts: cuts}
		c := newFrameConn(conn, newLimitedConn(conn), conn)
		c.tx.closed = true // answers nothing
		if client {
			c.parity = 1
		}
		c.before.Store(before)
		var got []byte
		var err error
		for p := make([]byte, size); err == nil; {
			var n int
			n, err = c.Read(p)
			got = append(got, p[:n]...)
		}
		want, werr := wholeFrames(in, c.parity, before)
		if !bytes.Equal(got, want) || !errors.Is(err, werr) {
			t.Errorf("got %x, %v\nwant %x, %v", got, err, want, werr)
		}
	})
}

// Whatever frames a peer sends, the bounds of the frames that this end sends hold.
func FuzzBounds(f *testing.F) {
	f.Add(append(frame(frameData, 0, 1, 5), "12345"...), uint16(7))
	f.Fuzz(func(t *testing.T, in []byte, cut uint16) {
		var one, two bounds
		one.pass(in)
		n := min(int(cut), len(in))
		two.pass(in[:n])
		two.pass(in[n:])
		if one.nhead != two.nhead || one.body != two.body {
			t.Errorf("cut at %d: %d, %d; whole %d, %d", n, two.nhead, two.body, one.nhead, one.body)
		}
	})
}
