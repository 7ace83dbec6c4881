package admin

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"
)

// bytesConn is a connection from which bytes come, and then its end.
type bytesConn struct {
	net.Conn // of deadlines, and Close
	r        *bytes.Reader
}

func (c bytesConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// FuzzFrames reads what any node or client might send: the data of the frames
// before the first that is wrong, and no orderly end without an end frame.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{frameData, 0, 2, 'h', 'i', framePing, 0, 0, frameData, 0, 1, '!', frameEnd, 0, 0})
	f.Add([]byte{frameData, 0, 9, 'x'})
	f.Add([]byte{frameData, 0, 0})
	f.Add([]byte{frameData, 255, 255, 'x'})
	f.Add([]byte{frameEnd, 0, 1, 'x'})
	f.Add([]byte{framePing, 0, 0, 9, 0, 0})
	f.Add([]byte{frameEnd, 0, 0, frameData, 0, 1, 'x'})
	f.Fuzz(func(t *testing.T, sent []byte) {
		var want []byte
		ended := false
		for p := sent; len(p) >= frameHeader && !ended; {
			kind, n := p[0], int(binary.BigEndian.Uint16(p[1:]))
			p = p[frameHeader:]
			if kind == frameData && n > 0 && n <= maxFrame-frameHeader {
				n = min(n, len(p)) // the last may be cut
				want, p = append(want, p[:n]...), p[n:]
				continue
			}
			if n > 0 || kind != framePing && kind != frameEnd {
				break
			}
			ended = kind == frameEnd
		}
		a, b := net.Pipe()
		defer func() { _, _ = a.Close(), b.Close() }()
		conn := bytesConn{a, bytes.NewReader(sent)}
		s := NewFrames(conn, bufio.NewReader(conn), time.Hour)
		got, err := io.ReadAll(s)
		s.Reset()
		if !bytes.Equal(got, want) || (err == nil) != ended {
			t.Errorf("read %q, %v; want %q, an end: %v", got, err, want, ended)
		}
	})
}
