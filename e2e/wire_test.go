//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Opcodes of RFC 6455, 5.2, and the bits beside them.
const (
	opContinue = 0x0
	opText     = 0x1
	opBinary   = 0x2
	opClose    = 0x8
	opPing     = 0x9
	opPong     = 0xa

	fin  = 0x80
	rsv1 = 0x40
	rsv2 = 0x20
	rsv3 = 0x10
)

// maskKey is the same for all frames: what a peer writes is then data.
var maskKey = [4]byte{0x37, 0xfa, 0x21, 0x3d}

// wire is a connection of which the test writes the bytes.
type wire struct {
	net.Conn // TCP, or the outer TLS on it
	tcp      *net.TCPConn
	in       *bufio.Reader
	addr     string // by which the server's log names it
}

// dialTCP connects to the server's outer listener.
func dialTCP(t *testing.T, addr string) *wire {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return &wire{c, c.(*net.TCPConn), bufio.NewReader(c), c.LocalAddr().String()}
}

// outerTLS is the outer handshake, trusting anybody as a device does.
func (w *wire) outerTLS(t *testing.T) *wire {
	t.Helper()
	c := tls.Client(w.tcp, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	if err := c.Handshake(); err != nil {
		t.Fatalf("outer handshake: %v", err)
	}
	return &wire{c, w.tcp, bufio.NewReader(c), w.addr}
}

// Read goes on after what was read ahead for an answer.
func (w *wire) Read(p []byte) (int, error) { return w.in.Read(p) }

// upgradeRequest is a good upgrade with a line or more replaced, in the way that
// header changes it.
func upgradeRequest(changes ...string) string {
	lines := []string{"GET " + path + " HTTP/1.1", "Host: cloud.example", "Connection: Upgrade", "Upgrade: websocket",
		"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol: atls.v1"}
	return request(lines, changes...)
}

// request changes the lines of a header: "Name: value" replaces the line of that
// name, "+Name: value" comes beside it, "-Name" removes it, and "GET ..." (any
// line with HTTP/ at its end) replaces the first.
func request(lines []string, changes ...string) string {
	for _, c := range changes {
		switch name, _, _ := strings.Cut(strings.TrimLeft(c, "-"), ":"); {
		case c[0] == '+':
			lines = append(lines, c[1:])
			continue
		case strings.Contains(c, " HTTP/"):
			lines[0] = c
			continue
		default:
			kept := lines[:1:1]
			for _, l := range lines[1:] {
				if !strings.HasPrefix(l, name+":") {
					kept = append(kept, l)
				}
			}
			lines = kept
			if c[0] != '-' {
				lines = append(lines, c)
			}
		}
	}
	return strings.Join(lines, "\r\n") + "\r\n\r\n"
}

// upgrade asks for a WebSocket and expects to get it.
func (w *wire) upgrade(t *testing.T) *wire {
	t.Helper()
	resp := w.ask(t, upgradeRequest())
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %s", resp.Status)
	}
	return w
}

// ask sends a request as it stands and reads the answer's header.
func (w *wire) ask(t *testing.T, request string) *http.Response {
	t.Helper()
	if _, err := io.WriteString(w, request); err != nil {
		t.Fatalf("request: %v", err)
	}
	resp, err := http.ReadResponse(w.in, nil)
	if err != nil {
		t.Fatalf("answer: %v", err)
	}
	return resp
}

// frame is a masked frame of the least length encoding. bits are the opcode with
// FIN and the reserved bits.
func frame(bits byte, payload []byte) []byte {
	return append(frameHead(bits, true, uint64(len(payload)), lengthBytes(len(payload))), masked(payload)...)
}

// message is a whole binary message.
func message(payload []byte) []byte { return frame(fin|opBinary, payload) }

// closeFrame is a close frame with a status code and a reason.
func closeFrame(code uint16, reason string) []byte {
	return frame(fin|opClose, append(binary.BigEndian.AppendUint16(nil, code), reason...))
}

// frameHead is the head of a frame whose length takes 0, 2 or 8 bytes more.
func frameHead(bits byte, mask bool, length uint64, size int) []byte {
	b := []byte{bits, 0}
	switch size {
	case 0:
		b[1] = byte(length)
	case 2:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(length))
	case 8:
		b[1] = 127
		b = binary.BigEndian.AppendUint64(b, length)
	}
	if mask {
		b[1] |= 0x80
		b = append(b, maskKey[:]...)
	}
	return b
}

func lengthBytes(n int) int {
	switch {
	case n > 65535:
		return 8
	case n > 125:
		return 2
	}
	return 0
}

func masked(p []byte) []byte {
	m := make([]byte, len(p))
	for i := range p {
		m[i] = p[i] ^ maskKey[i%4]
	}
	return m
}

// gotFrame is a frame that the server sent.
type gotFrame struct {
	bits    byte
	payload []byte
}

func (f gotFrame) op() byte { return f.bits & 0x0f }

// code is the status of a close frame; 1005 is none.
func (f gotFrame) code() int {
	if len(f.payload) < 2 {
		return 1005
	}
	return int(binary.BigEndian.Uint16(f.payload))
}

var errServerFrame = errors.New("the server's frame breaks RFC 6455")

// readFrame reads a frame and holds it to what a server may send.
func readFrame(r *bufio.Reader) (f gotFrame, err error) {
	var head [2]byte
	if _, err = io.ReadFull(r, head[:]); err != nil {
		return f, err
	}
	f.bits = head[0]
	n, size := uint64(head[1]&0x7f), 0
	if n >= 126 {
		size = 2 << (2 * (n - 126)) // 2 or 8
		var ext [8]byte
		if _, err = io.ReadFull(r, ext[8-size:]); err != nil {
			return f, err
		}
		n = binary.BigEndian.Uint64(ext[:])
	}
	switch {
	case head[1]&0x80 != 0:
		return f, fmt.Errorf("%w: it is masked", errServerFrame)
	case f.bits&(rsv1|rsv2|rsv3) != 0:
		return f, fmt.Errorf("%w: reserved bits %#x", errServerFrame, f.bits)
	case n > 1<<20 || size != lengthBytes(int(n)):
		return f, fmt.Errorf("%w: length %d in %d bytes", errServerFrame, n, size)
	case f.op() >= opClose && (n > 125 || f.bits&fin == 0):
		return f, fmt.Errorf("%w: a control frame of %d bytes, bits %#x", errServerFrame, n, f.bits)
	}
	f.payload = make([]byte, n)
	_, err = io.ReadFull(r, f.payload)
	return f, err
}

// carrier is the byte stream of a WebSocket's messages: what is above it is
// written by the test or by crypto/tls.
type carrier struct {
	*wire
	rest bytes.Buffer // of messages that came
	kept []byte       // what is written while keep is set
	keep bool
}

func (c *carrier) Write(p []byte) (int, error) {
	if c.keep {
		c.kept = append(c.kept, p...)
		return len(p), nil
	}
	for off := 0; off < len(p); off += 64 << 10 {
		if _, err := c.Conn.Write(message(p[off:min(off+64<<10, len(p))])); err != nil {
			return off, err
		}
	}
	return len(p), nil
}

func (c *carrier) Read(p []byte) (int, error) {
	for c.rest.Len() == 0 {
		f, err := readFrame(c.in)
		switch {
		case err != nil:
			return 0, err
		case f.op() == opClose:
			return 0, io.EOF
		case f.op() <= opBinary:
			c.rest.Write(f.payload)
		}
	}
	return c.rest.Read(p)
}
