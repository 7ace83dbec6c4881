//go:build e2e

package e2e

import (
	"encoding/binary"
	"io"
	"net"
)

// Frames of yamux, docs/PROTOCOL.md section 6.
const (
	yData, yWindow, yPing, yGone = 0, 1, 2, 3
	ySYN, yACK, yFIN, yRST       = 1, 2, 4, 8
)

// mux is a frame of yamux; the length is that of the body.
func mux(typ byte, flags uint16, stream uint32, body string) string {
	return muxHead(typ, flags, stream, uint32(len(body))) + body
}

func muxHead(typ byte, flags uint16, stream, length uint32) string {
	b := binary.BigEndian.AppendUint16([]byte{0, typ}, flags)
	return string(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, stream), length))
}

// stream writes to a stream and reads what comes to all of them, frames and all.
type stream struct {
	net.Conn
	id uint32
}

func (s *stream) Write(p []byte) (int, error) {
	if _, err := io.WriteString(s.Conn, mux(yData, 0, s.id, string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}
