//go:build e2e

package e2e

import (
	"bytes"
	"crypto/tls"
	"net"
	"strings"
	"testing"
)

// hostileFrames are attacks by the frames of a WebSocket. What a frame must not
// be, byte by byte, is in the tables of RFC 6455.
var hostileFrames = []attack{
	{name: "frames: none", at: framed, do: func(*foe) {}, ends: readyTime, says: []string{"connection refused", "not ready within 8s"}},
	{name: "frames: half a head", at: framed, send: "\x82", ends: readyTime, says: []string{"connection refused", "not ready within 8s"}},
	{name: "frames: half a message", at: framed, send: string(frameHead(fin|opBinary, true, 1000, 2)) + "\x00", ends: readyTime, says: []string{"connection refused", "not ready within 8s"}},
	{name: "frames: random bytes", at: framed, send: string(pseudoRandom(3)[:64<<10]), ends: atOnce, says: []string{"connection refused"}},
	{name: "frames: unmasked", at: framed, send: "\x82\x05hello", ends: atOnce, answer: []string{"\x88"}, says: []string{"connection refused", "mask"}},
	{name: "frames: 2^63-1 bytes announced", at: framed, send: string(frameHead(fin|opBinary, true, 1<<63-1, 8)) + "\x16", ends: readyTime, says: []string{"connection refused"}},
	{name: "frames: 2^64-1 bytes announced", at: framed, send: string(frameHead(fin|opBinary, true, 1<<64-1, 8)) + "\x16", ends: atOnce, says: []string{"connection refused"}},
	{name: "frames: a ping of 126 bytes", at: framed, send: string(frame(fin|opPing, make([]byte, 126))), ends: atOnce, answer: []string{"\x03\xea"}, says: []string{"connection refused"}},
	{name: "frames: a fragmented ping", at: framed, send: string(frame(opPing, []byte("pi"))) + string(frame(fin|opContinue, []byte("ng"))), ends: atOnce, answer: []string{"\x03\xea"}, says: []string{"connection refused"}},
	{name: "frames: text", at: framed, send: string(frame(fin|opText, []byte("hello"))), ends: atOnce, answer: []string{"\x03\xeb"}, says: []string{"connection refused", "text"}},
	{name: "frames: a message in 100,000 fragments of nothing", at: framed, send: string(frame(opBinary, nil)) + strings.Repeat(string(frame(opContinue, nil)), 100_000), ends: readyTime, says: []string{"connection refused"}},
	{name: "frames: 100,000 empty messages", at: framed, send: strings.Repeat(string(message(nil)), 100_000), ends: readyTime, says: []string{"connection refused"}},
	{name: "frames: 1 MiB that nobody asked for", at: framed, send: strings.Repeat(string(message(make([]byte, 64<<10))), 16), ends: atOnce, says: []string{"connection refused"}},
	{name: "frames: a flood of pings, pongs read", at: framed, do: flood(frame(fin|opPing, make([]byte, 125)), 100_000, true), ends: readyTime, says: []string{"connection refused", "not ready within 8s"}},
	{name: "frames: a flood of pings, pongs not read", at: framed, do: flood(frame(fin|opPing, make([]byte, 125)), 100_000, false), ends: readyTime, says: []string{"connection refused", "not ready within 8s"}},
	{name: "frames: a flood of pongs", at: framed, do: flood(frame(fin|opPong, make([]byte, 125)), 100_000, true), ends: readyTime, says: []string{"connection refused", "not ready within 8s"}},
	{name: "frames: pings and a session", at: muxed, do: pingsInSession, ends: deadTime, says: []string{"device disconnected"}},
	{name: "frames: a close and then more", at: framed, send: string(closeFrame(1000, "")) + strings.Repeat(string(message(make([]byte, 64<<10))), 16), ends: atOnce, answer: []string{"\x88"}, says: []string{"connection refused"}},
	{name: "frames: half-closed TCP", at: framed, do: func(f *foe) { _ = f.w.Conn.(*tls.Conn).CloseWrite(); _ = f.w.tcp.CloseWrite() }, ends: atOnce, says: []string{"connection refused", "without a close frame"}},
	{name: "frames: TCP is reset", at: framed, do: func(f *foe) { _ = f.w.tcp.SetLinger(0); _ = f.w.tcp.Close() }, says: []string{"connection refused"}},
	{name: "frames: in the middle of a session, garbage", at: muxed, do: func(f *foe) { _, _ = f.w.Write([]byte("\xff\xff\xff\xff")) }, ends: atOnce, says: []string{"device disconnected"}},
	{name: "frames: in the middle of a session, a message of 128 KiB and a byte", at: muxed, do: oversize, ends: atOnce, says: []string{"device disconnected"}},
	{name: "frames: in the middle of a session, a close", at: muxed, do: func(f *foe) { _, _ = f.w.Write(closeFrame(1001, "")) }, ends: atOnce, says: []string{"device disconnected"}},
}

// flood sends a frame many times over, and reads meanwhile or does not.
func flood(frame []byte, times int, reads bool) func(*foe) {
	return func(f *foe) {
		if reads {
			defer f.drain()()
		}
		many := bytes.Repeat(frame, 100)
		for range times / 100 {
			if _, err := f.w.Write(many); err != nil {
				return
			}
		}
	}
}

// pingsInSession are the carrier's pings: they keep no session alive.
func pingsInSession(f *foe) {
	defer f.drain()()
	ctx := bounded(f.T)
	for ctx.Err() == nil {
		if _, err := f.w.Write(frame(fin|opPing, nil)); err != nil {
			return
		}
		pause(ctx)
	}
	f.Error("a session lives on by the carrier's pings alone")
}

// oversize makes one message of what would be good in several.
func oversize(f *foe) {
	f.c.keep = true
	for len(f.c.kept) <= 128<<10 {
		f.send(mux(yData, 0, 99, strings.Repeat("x", 16000))) // of no stream: dropped
	}
	_, _ = f.w.Write(message(f.c.kept))
}

// helloRecord is the first flight of an inner client.
func helloRecord(t *testing.T) []byte {
	t.Helper()
	a, b := net.Pipe()
	go func() {
		_ = tls.Client(a, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"atls-mux/1"}}).Handshake()
	}()
	defer func() { _, _ = a.Close(), b.Close() }()
	buf := make([]byte, 16<<10)
	n, err := b.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}
