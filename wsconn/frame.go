package wsconn

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"unicode/utf8"
)

// The library does the upgrade, and then the frames are ours: a Conn knows
// binary messages only, never waits in a write and holds no buffer while idle,
// where the library costs a server 3 KiB a connection and a copy of each byte.

// Opcodes and status codes of RFC 6455, sections 5.2 and 7.4.1.
const (
	opContinuation = 0
	opText         = 1
	opBinary       = 2
	opClose        = 8
	opPing         = 9
	opPong         = 10

	statusNormal      = 1000
	statusGoingAway   = 1001
	statusProtocol    = 1002
	statusUnsupported = 1003
	statusNone        = 1005 // a close frame without a status
	statusBadText     = 1007
	statusPolicy      = 1008
	statusTooBig      = 1009

	maxControl = 125 // bytes of a control frame
	maxHead    = 14  // bytes before a payload
)

// header is what precedes a payload: fin, rsv and opcode u8 | mask bit and
// length u7 | length u16 or u64 | mask key 4 bytes.
type header struct {
	fin    bool
	opcode byte
	masked bool
	key    [4]byte
	length int64
}

// frameError is what the other end did wrong, and the status that tells it so.
type frameError struct {
	status uint16
	text   string
}

func (e *frameError) Error() string { return e.text }

// closeError is the close frame of the other end.
type closeError struct {
	status uint16
	reason string
}

func (e *closeError) Error() string { return fmt.Sprintf("status %d %q", e.status, e.reason) }

// putHeader writes the header of a frame so that it ends where the payload
// begins, at b[maxHead], and returns where it begins. key is nil for a server.
func putHeader(b []byte, opcode byte, length int, key []byte) (from int) {
	var h [maxHead]byte
	n := 2
	h[0] = 0x80 | opcode
	switch {
	case length <= 125:
		h[1] = byte(length)
	case length < 1<<16:
		h[1] = 126
		binary.BigEndian.PutUint16(h[2:], uint16(length))
		n = 4
	default:
		h[1] = 127
		binary.BigEndian.PutUint64(h[2:], uint64(length))
		n = 10
	}
	if key != nil {
		h[1] |= 0x80
		n += copy(h[n:], key)
	}
	return maxHead - copy(b[maxHead-n:maxHead], h[:n])
}

// sealFrame makes a frame of b, whose payload begins at maxHead, in place.
func sealFrame(b []byte, opcode byte, client bool) []byte {
	if !client {
		return b[putHeader(b, opcode, len(b)-maxHead, nil):]
	}
	var key [4]byte
	_, _ = rand.Read(key[:]) // never fails
	from := putHeader(b, opcode, len(b)-maxHead, key[:])
	mask(b[maxHead:], key, 0)
	return b[from:]
}

// mask masks or unmasks p, which begins at byte n of the payload. Words of eight
// bytes, four at a time, are 15 times as fast as a loop over bytes.
func mask(p []byte, key [4]byte, n int64) {
	k := bits.RotateLeft32(binary.LittleEndian.Uint32(key[:]), -8*int(n%4))
	w := uint64(k)<<32 | uint64(k)
	for len(p) >= 32 {
		q := p[:32]
		binary.LittleEndian.PutUint64(q, binary.LittleEndian.Uint64(q)^w)
		binary.LittleEndian.PutUint64(q[8:], binary.LittleEndian.Uint64(q[8:])^w)
		binary.LittleEndian.PutUint64(q[16:], binary.LittleEndian.Uint64(q[16:])^w)
		binary.LittleEndian.PutUint64(q[24:], binary.LittleEndian.Uint64(q[24:])^w)
		p = p[32:]
	}
	for i := range p {
		p[i] ^= byte(w)
		w = bits.RotateLeft64(w, -8)
	}
}

// frameReader reads frames. While it waits for one it holds 128 bytes.
type frameReader struct {
	raw   io.Reader
	small [128]byte // a header and what came with it
	r, w  int       // the unread bytes of small
}

// need has n bytes of small, n being no more than maxHead.
func (f *frameReader) need(n int) error {
	for f.w-f.r < n {
		if f.r > 0 {
			f.w = copy(f.small[:], f.small[f.r:f.w])
			f.r = 0
		}
		k, err := f.raw.Read(f.small[f.w:])
		f.w += k
		if err != nil && f.w-f.r < n {
			if err == io.EOF && f.w > f.r {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// header reads the next header.
func (f *frameReader) header() (h header, err error) {
	if err := f.need(2); err != nil {
		return h, err
	}
	b0, b1 := f.small[f.r], f.small[f.r+1]
	h.fin, h.opcode, h.masked = b0&0x80 != 0, b0&15, b1&0x80 != 0
	if b0&0x70 != 0 {
		return h, &frameError{statusProtocol, "the other end sent a frame with rsv bits set"}
	}
	n, size := 2, 0
	switch b1 & 127 {
	case 126:
		size = 2
	case 127:
		size = 8
	}
	if h.masked {
		n += 4
	}
	n += size
	if err := f.need(n); err != nil {
		return h, err
	}
	b := f.small[f.r+2 : f.r+n]
	switch size {
	case 0:
		h.length = int64(b1 & 127)
	case 2:
		h.length = int64(binary.BigEndian.Uint16(b))
	default:
		h.length = int64(binary.BigEndian.Uint64(b))
	}
	// A length above 2^63-1 is a negative one here.
	if size == 2 && h.length <= 125 || size == 8 && h.length < 1<<16 {
		return h, &frameError{statusProtocol, "the other end sent a frame whose length is not in the shortest form, or has its highest bit set"}
	}
	if h.masked {
		copy(h.key[:], b[size:])
	}
	f.r += n
	return h, nil
}

// payload reads some of a payload of which p may take all that is left.
func (f *frameReader) payload(p []byte) (int, error) {
	if f.w > f.r {
		n := copy(p, f.small[f.r:f.w])
		f.r += n
		return n, nil
	}
	n, err := f.raw.Read(p)
	if n > 0 {
		err = nil
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// control reads the payload of a control frame.
func (f *frameReader) control(h header) ([]byte, error) {
	p := make([]byte, h.length)
	for n := 0; n < len(p); {
		k, err := f.payload(p[n:])
		if err != nil {
			return nil, err
		}
		n += k
	}
	mask(p, h.key, 0)
	return p, nil
}

// check says what is wrong with a header, by section 5 of the RFC.
func (h *header) check(client bool) error {
	wrong := ""
	switch {
	case h.opcode > opBinary && h.opcode < opClose || h.opcode > opPong:
		wrong = fmt.Sprintf("a frame of unknown opcode %d", h.opcode)
	case h.masked && client:
		wrong = "a masked frame"
	case !h.masked && !client:
		wrong = "an unmasked frame"
	case h.opcode >= opClose && (!h.fin || h.length > maxControl):
		wrong = "a control frame that is too long, or in parts"
	default:
		return nil
	}
	return &frameError{statusProtocol, "the other end sent " + wrong}
}

// parseClose is what a close frame says.
func parseClose(p []byte) error {
	switch {
	case len(p) == 0:
		return &closeError{status: statusNone}
	case len(p) == 1:
		return &frameError{statusProtocol, "the other end sent a close frame of one byte"}
	}
	status := binary.BigEndian.Uint16(p)
	switch {
	case !sendable(status):
		return &frameError{statusProtocol, fmt.Sprintf("the other end sent a close frame of status %d", status)}
	case !utf8.Valid(p[2:]):
		return &frameError{statusBadText, "the other end sent a close frame whose reason is not UTF-8"}
	}
	return &closeError{status, string(p[2:])}
}

// sendable says whether a close frame may have a status (RFC 6455 section 7.4,
// and what IANA has registered since): 1005, 1006 and 1015 only stand for
// something that has no status.
func sendable(status uint16) bool {
	switch {
	case status >= 3000:
		return status < 5000
	case status == 1004 || status == statusNone || status == 1006:
		return false
	}
	return status >= statusNormal && status <= 1014
}

func closePayload(status uint16, reason string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, status), reason[:min(len(reason), maxControl-2)]...)
}
