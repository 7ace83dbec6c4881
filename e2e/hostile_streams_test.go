//go:build e2e

package e2e

import (
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
)

// hostileServices are two that go beyond what a session may hold: one writes
// without end, the other never reads.
func hostileServices(t *testing.T) (yaml string) {
	flood := accept(t, nil, func(c net.Conn) {
		full := make([]byte, 64<<10)
		for {
			if _, err := c.Write(full); err != nil {
				return
			}
		}
	})
	deaf := accept(t, nil, func(net.Conn) { <-t.Context().Done() })
	return "services: {flood: tcp://" + flood + ", deaf: tcp://" + deaf + "}\n"
}

// protocolEnds is the line about a session that broke the protocol.
var protocolEnds = []string{"device disconnected", "peer breaks the mux protocol"}

// hostileStreams are attacks of a device that is let in: by frames of yamux and
// headers of streams.
var hostileStreams = []attack{
	{name: "yamux: HTTP", at: muxed, send: "GET / HTTP/1.1\r\nHost: x\r\n\r\n", ends: atOnce, says: protocolEnds},
	{name: "yamux: version 1", at: muxed, send: "\x01" + mux(yPing, ySYN, 0, "")[1:], ends: atOnce, says: protocolEnds},
	{name: "yamux: an unknown type", at: muxed, send: mux(9, 0, 0, ""), ends: atOnce, says: protocolEnds},
	{name: "yamux: half a frame", at: muxed, send: mux(yData, ySYN, 1, "")[:7], ends: deadTime, says: []string{"device disconnected", "silent for too long"}},
	{name: "yamux: nothing", at: muxed, do: func(*foe) {}, ends: deadTime, says: []string{"device disconnected", "silent for too long"}},
	{name: "yamux: a stream twice", at: muxed, send: mux(yWindow, ySYN, 1, "") + mux(yWindow, ySYN, 1, ""), ends: atOnce, says: protocolEnds},
	{name: "yamux: 4 GiB of data announced", at: muxed, send: muxHead(yData, ySYN, 1, 1<<32-1), ends: atOnce, says: protocolEnds},
	{name: "yamux: data beyond the window", at: muxed, send: mux(yData, ySYN, 1, "\x01\x04deaf") + strings.Repeat(mux(yData, 0, 1, strings.Repeat("x", 16<<10)), 1000), ends: atOnce, says: protocolEnds},
	{name: "yamux: data of no stream", at: muxed, send: strings.Repeat(mux(yData, 0, 77, strings.Repeat("x", 16<<10)), 1000), ends: deadTime, says: []string{"device disconnected"}},
	{name: "yamux: ends of no stream", at: muxed, send: strings.Repeat(mux(yWindow, yRST, 77, "")+mux(yWindow, yFIN, 79, ""), many), ends: deadTime, says: []string{"device disconnected"}},
	{name: "yamux: the stream 0", at: muxed, send: mux(yWindow, ySYN, 0, "") + mux(yData, 0, 0, "x"), ends: deadTime, says: []string{"device disconnected"}},
	{name: "yamux: streams of the server's numbers", at: muxed, do: func(f *foe) {
		for id := uint32(2); id < 200; id += 2 {
			f.send(mux(yWindow, ySYN, id, ""))
		}
	}, ends: deadTime, says: []string{"device disconnected"}},
	{name: "yamux: goodbye without end", at: muxed, send: strings.Repeat(mux(yGone, 0, 0, ""), many), ends: deadTime, says: []string{"device disconnected"}},
	{name: "yamux: a flood of pongs", at: muxed, send: strings.Repeat(mux(yPing, yACK, 0, ""), many), ends: deadTime, says: []string{"device disconnected"}},

	{name: "streams: a header that does not come", at: muxed, do: alive(mux(yWindow, ySYN, 1, ""), "no header within 10s"), says: []string{"stream refused", "no header within 10s"}},
	{name: "streams: a header of another version", at: muxed, do: alive(mux(yData, ySYN, 1, "\x09\x04http"), "version 9"), says: []string{"stream refused", "code=malformed"}},
	{name: "streams: a service without a name", at: muxed, do: alive(mux(yData, ySYN, 1, "\x01\x00"), "name of 0 bytes"), says: []string{"stream refused", "code=malformed"}},
	{name: "streams: a service with line breaks", at: muxed, do: alive(mux(yData, ySYN, 1, "\x01\x09a\nmsg=b\r\n"), "not printable"), says: []string{"stream refused", "code=malformed"}},
	{name: "streams: a service that is not there", at: muxed, do: alive(mux(yData, ySYN, 1, "\x01\x04nope"), "no service nope"), says: []string{"stream refused", `code="not found"`}},
	{name: "streams: five for signals", at: muxed, do: alive(signalStreams(5), "too many signal streams")},
	{name: "streams: 64 that are not read, nor the connection", at: muxed, do: unread(false), ends: deadTime, says: []string{"device disconnected"}},
	{name: "streams: 64 whose windows stay shut", at: muxed, do: unread(true), says: []string{"device disconnected"}},
	{name: "streams: 64 full ones that nobody reads at the server", at: muxed, do: func(f *foe) {
		defer f.drain()()
		for n := range uint32(64) {
			f.send(mux(yData, ySYN, 2*n+1, "\x01\x04deaf"))
			for range 15 {
				f.send(mux(yData, 0, 2*n+1, strings.Repeat("x", 16<<10)))
			}
		}
	}, ends: deadTime, says: []string{"device disconnected"}},
	{name: "streams: a window of more than there are bytes", at: muxed, do: func(f *foe) {
		f.send(mux(yData, ySYN, 1, "\x01\x05flood") + strings.Repeat(muxHead(yWindow, 0, 1, 1<<32-1), 3) + muxHead(yWindow, 0, 1, 1<<30))
		_, _ = io.CopyN(io.Discard, f.io, 32<<20)
		_ = f.w.tcp.Close()
	}, says: []string{"device disconnected"}},
}

func signalStreams(n int) (s string) {
	for i := range uint32(n) {
		s += mux(yData, ySYN, 2*i+1, "\x01\x07signals")
	}
	return s
}

// alive sends frames and keeps the session until a word has come.
func alive(frames, word string) func(*foe) {
	return func(f *foe) {
		f.send(frames)
		came := make(chan struct{})
		go func() {
			defer close(came)
			f.until(word)
		}()
		for ctx := bounded(f.T); ; pause(ctx) {
			select {
			case <-came:
				return
			case <-ctx.Done():
				<-came
				return
			default:
				f.send(mux(yPing, yACK, 0, "")) // a sign of life
			}
		}
	}
}

// unread lets a service write to 64 streams and opens no window. The session
// stays alive for as long as its end sends something: it costs what it may hold.
func unread(reads bool) func(*foe) {
	return func(f *foe) {
		for n := range uint32(64) {
			f.send(mux(yData, ySYN, 2*n+1, "\x01\x05flood"))
		}
		var came int64
		stop := func() {}
		if reads {
			done := make(chan struct{})
			go func() {
				defer close(done)
				came, _ = io.Copy(io.Discard, f.io)
			}()
			stop = func() {
				_ = f.w.tcp.Close()
				<-done
			}
		}
		ctx := bounded(f.T)
		for range 50 {
			f.send(muxHead(yWindow, 0, 1, 0))
			pause(ctx)
		}
		stop()
		if came > 64*(256<<10)+1<<20 { // and the heads
			f.Errorf("%d bytes have come, beyond 64 windows", came)
		}
	}
}

// hostileSignals are attacks in a signal stream.
var hostileSignals = []attack{
	{name: "signals: half a head", at: signals, send: "\x01\x00", ends: deadTime, says: []string{"device disconnected"}},
	{name: "signals: garbage", at: signals, send: strings.Repeat("garbage ", 10), ends: deadTime},
	{name: "signals: a frame of 4 GiB announced", at: signals, send: "\x01\xff\xff\xff\xff", ends: deadTime},
	{name: "signals: a signal of no bytes", at: signals, send: signal(1, ""), ends: deadTime, says: []string{"signal stream ended", "signal of 0 bytes"}},
	{name: "signals: a name that is cut", at: signals, send: signal(1, strings.Repeat("\x00", 32)+"\xffabc"), ends: deadTime, says: []string{"signal stream ended", "cut off"}},
	{name: "signals: a name with line breaks", at: signals, send: signal(1, strings.Repeat("\x00", 32)+"\x03a\nb\x00"), ends: deadTime, says: []string{"signal stream ended", "printable"}},
	{name: "signals: an expiry in the year 500 million", at: signals, send: signal(1, strings.Repeat("\xff", 32)+"\x01a\x00"), ends: deadTime, says: []string{"signal stream ended", "expiry"}},
	{name: "signals: a drain of other length", at: signals, send: signal(2, "\x00"), ends: deadTime, says: []string{"signal stream ended", "drain"}},
	{name: "signals: a thousand drains", at: signals, send: strings.Repeat(signal(2, strings.Repeat("\xff", 8)), 1000), ends: deadTime, says: []string{"device disconnected"}},
	{name: "signals: a goodbye that is cut", at: signals, send: signal(3, "\x01\xff\xff"), ends: deadTime, says: []string{"signal stream ended"}},
	{name: "signals: a goodbye", at: signals, send: signal(3, "\x08\x00\x03bye"), ends: atOnce, says: []string{"device disconnected", "bye"}},
	{name: "signals: acks of nothing", at: signals, send: strings.Repeat(signal(0x81, strings.Repeat("\x00", 19)), 1000), ends: deadTime, says: []string{"device disconnected"}},
	{name: "signals: unknown frames, then a good signal", at: signals, do: func(f *foe) {
		f.send(strings.Repeat(signal(0x7f, "future"), 1000) + signal(1, strings.Repeat("i", 16)+strings.Repeat("\x00", 16)+"\x01a\x00data"))
		f.until(strings.Repeat("i", 16)) // its ack
	}},
	{name: "signals: three of 64 KiB whose acks are not read", at: signals, do: func(f *foe) {
		big := signal(1, strings.Repeat("j", 16)+strings.Repeat("\x00", 16)+"\x01a\x00"+strings.Repeat("d", 64<<10))
		done := make(chan struct{})
		go func() { // beyond the window it waits, as it does not read
			defer close(done)
			for off := 0; off < 3*len(big); off += 16 << 10 {
				f.send((big + big + big)[off:min(off+16<<10, 3*len(big))])
			}
		}()
		<-done
	}, ends: deadTime, says: []string{"device disconnected"}},
}

func signal(typ byte, body string) string {
	return string(binary.BigEndian.AppendUint32([]byte{typ}, uint32(len(body)))) + body
}
