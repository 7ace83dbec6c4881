//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// framingRules are chapters 5, 8.1 and 10.4.
func framingRules(hello []byte) []rule {
	// cut is the ClientHello in fragments at these places.
	cut := func(first byte, between []byte, places ...int) (out []byte) {
		op, begin := first, 0
		for _, end := range append(places, len(hello)) {
			bits := op
			if end == len(hello) {
				bits |= fin
			}
			out = append(append(out, frame(bits, hello[begin:end])...), between...)
			op, begin = opContinue, end
		}
		return out
	}
	bytewise := make([]int, len(hello)-1)
	for i := range bytewise {
		bytewise[i] = i + 1
	}
	ping := func(s string) []byte { return frame(fin|opPing, []byte(s)) }
	longHead := func(bits byte, n, size int) []byte { return frameHead(bits, true, uint64(n), size) }
	breach := func(section, name string, send []byte) rule {
		return rule{section: section, name: name, send: send, codes: protocolError, drop: true}
	}
	rules := []rule{
		breach("5.1", "a frame without mask", []byte("\x82\x01x")),
		breach("5.1", "a ping without mask", []byte("\x89\x00")),
		breach("5.1", "a close frame without mask", []byte("\x88\x02\x03\xe8")),
		breach("5.1", "a frame without mask and content", []byte("\x82\x00")),
		{section: "5.3", name: "a mask of zeros", send: append([]byte("\x82\xfe"+string([]byte{byte(len(hello) >> 8), byte(len(hello))})+"\x00\x00\x00\x00"), hello...), flight: true},
		{section: "5.3", name: "another mask for each frame", send: slices.Concat([]byte("\x89\x81\x01\x02\x03\x04a"), []byte("\x89\x81\xff\xfe\xfd\xfcb")), pongs: []string{"`"}, last: "\x9d"},

		breach("5.2", "RSV1", frame(fin|rsv1|opBinary, []byte("x"))),
		breach("5.2", "RSV2", frame(fin|rsv2|opBinary, []byte("x"))),
		breach("5.2", "RSV3", frame(fin|rsv3|opBinary, []byte("x"))),
		breach("5.2", "RSV1 on a ping", frame(fin|rsv1|opPing, nil)),
		breach("5.2", "RSV1 on a close frame", frame(fin|rsv1|opClose, []byte("\x03\xe8"))),
		breach("5.2", "RSV1 within a message", slices.Concat(frame(opBinary, hello[:5]), frame(fin|rsv1|opContinue, hello[5:]))),
		{section: "5.2", name: "messages of 0, 1, 125, 126, 127 bytes and more", send: lengths(hello), flight: true},
		{section: "5.2", name: "the length of a message of 126 in 8 bytes", send: append(longHead(fin|opBinary, 126, 8), masked(hello[:126])...), codes: protocolError, drop: true, serves: true},
		{section: "5.2", name: "the length of a message of 5 in 2 bytes", send: append(longHead(fin|opBinary, 5, 2), masked(hello[:5])...), codes: protocolError, drop: true, serves: true},
		{section: "5.2", name: "the length of a message of 0 in 2 bytes", send: longHead(fin|opBinary, 0, 2), codes: protocolError, drop: true, serves: true},
		breach("5.2", "a length with its highest bit", longHead(fin|opBinary, -1, 8)),
		{section: "5.2", name: "a message without content", send: slices.Concat(message(nil), message(hello), message(nil)), flight: true},

		{section: "5.4", name: "a message in two fragments", send: cut(opBinary, nil, 5), flight: true},
		{section: "5.4", name: "a message byte by byte", send: cut(opBinary, nil, bytewise...), flight: true},
		{section: "5.4", name: "fragments without content", send: slices.Concat(frame(opBinary, nil), frame(opContinue, nil), frame(opContinue, hello), frame(fin|opContinue, nil)), flight: true},
		{section: "5.4", name: "pings between fragments", send: cut(opBinary, ping("p"), 5, 100), pongs: []string{"p", "p", "p"}, flight: true},
		{section: "5.4", name: "pongs between fragments", send: cut(opBinary, frame(fin|opPong, []byte("p")), 5, 100), flight: true},
		breach("5.4", "a message within a message", slices.Concat(frame(opBinary, hello[:5]), message(hello[5:]))),
		{section: "5.4", name: "a text within a message", send: slices.Concat(frame(opBinary, hello[:5]), frame(fin|opText, nil)), codes: []int{1002, 1003}, drop: true},
		breach("5.4", "a continuation of nothing", frame(fin|opContinue, []byte("x"))),
		breach("5.4", "a continuation of nothing, to be continued", frame(opContinue, []byte("x"))),
		breach("5.4", "a continuation after the end", slices.Concat(frame(opBinary, hello[:5]), frame(fin|opContinue, nil), frame(fin|opContinue, nil))),
		breach("5.4", "a fragmented ping", slices.Concat(frame(opPing, []byte("a")), frame(fin|opContinue, []byte("b")))),
		breach("5.4", "a fragmented close frame", slices.Concat(frame(opClose, []byte("\x03\xe8")), frame(fin|opContinue, nil))),

		breach("5.5", "a ping of 126 bytes", frame(fin|opPing, make([]byte, 126))),
		breach("5.5", "a ping of 65536 bytes", frame(fin|opPing, make([]byte, 65536))),
		breach("5.5", "a pong of 126 bytes", frame(fin|opPong, make([]byte, 126))),
		breach("5.5", "a close frame of 126 bytes", frame(fin|opClose, append([]byte("\x03\xe8"), bytes.Repeat([]byte("x"), 124)...))),
		{section: "5.5", name: "the length of a ping in 2 bytes", send: append(longHead(fin|opPing, 1, 2), masked([]byte("p"))...), codes: protocolError, drop: true, serves: true, pongs: []string{"p"}},
		{section: "5.5.2", name: "a ping", send: ping("Hello"), last: "Hello"},
		{section: "5.5.2", name: "a ping without content", send: ping(""), pongs: []string{""}},
		{section: "5.5.2", name: "a ping of 125 bytes", send: ping(strings.Repeat("\xff", 125)), last: strings.Repeat("\xff", 125)},
		{section: "5.5.2", name: "pings in a row", send: slices.Concat(ping("1"), ping("2"), ping("3")), pongs: []string{"1", "2"}, last: "3"},
		{section: "5.5.3", name: "a pong that nobody asked for", send: frame(fin|opPong, []byte("x"))},

		{section: "5.6", name: "text", send: frame(fin|opText, []byte("text")), codes: []int{1003}},
		{section: "5.6", name: "text without content", send: frame(fin|opText, nil), codes: []int{1003}},
		{section: "5.6", name: "text in fragments", send: slices.Concat(frame(opText, []byte("te")), frame(fin|opContinue, []byte("xt"))), codes: []int{1003}},
		{section: "8.1", name: "text that is not UTF-8", send: frame(fin|opText, []byte("\xff\xfe")), codes: []int{1003, 1007}, drop: true},

		{section: "10.4", name: "a message of 2^62 bytes", send: append(longHead(fin|opBinary, 1<<62, 8), masked([]byte("no inner TLS"))...), codes: []int{1000, 1009}, drop: true},
	}
	for _, op := range []byte{3, 4, 5, 6, 7, 11, 12, 13, 14, 15} {
		rules = append(rules, breach("5.2", fmt.Sprintf("opcode %#x", op), frame(fin|op, nil)))
	}
	return rules
}

// lengths is the ClientHello in messages at the borders of the length's encodings.
func lengths(hello []byte) (out []byte) {
	for _, n := range []int{0, 1, 125, 126, 127} {
		out = append(out, message(hello[:n])...)
		hello = hello[n:]
	}
	return append(out, message(hello)...)
}

// closingRules are chapter 7, and 8.1 for the reason.
func closingRules() []rule {
	good := []byte("\x03\xe8")
	rules := []rule{
		{section: "7.1.2", name: "a close frame", send: closeFrame(1000, ""), echo: good},
		{section: "7.1.2", name: "a close frame and more", send: slices.Concat(closeFrame(1000, ""), frame(fin|opPing, []byte("late")), message([]byte("late"))), echo: good},
		{section: "7.1.2", name: "two close frames", send: slices.Concat(closeFrame(1000, ""), closeFrame(1001, "")), echo: good},
		{section: "7.1.2", name: "a ping before the close frame", send: slices.Concat(frame(fin|opPing, []byte("p")), closeFrame(1000, "")), pongs: []string{"p"}, echo: good},
		{section: "7.1.2", name: "a close frame within a message", send: slices.Concat(frame(opBinary, []byte("\x16\x03\x01")), closeFrame(1000, "")), codes: []int{1000}},
		{section: "7.1.5", name: "a close frame without code", send: frame(fin|opClose, nil), codes: []int{1000, 1005}},
		{section: "7.1.6", name: "a reason of 123 bytes", send: closeFrame(1000, strings.Repeat("ü", 61)+"x"), codes: []int{1000}},
		{section: "7.1.7", name: "half a code", send: frame(fin|opClose, []byte{3}), codes: protocolError, drop: true},
		{section: "8.1", name: "a reason that is not UTF-8", send: closeFrame(1000, "\xff\xfe"), codes: []int{1002, 1007}, drop: true},
		{section: "8.1", name: "a reason that ends within a character", send: closeFrame(1000, "caf\xc3"), codes: []int{1002, 1007}, drop: true},
		{section: "8.1", name: "a reason with a surrogate", send: closeFrame(1000, "\xed\xa0\x80"), codes: []int{1002, 1007}, drop: true},
		{section: "8.1", name: "a reason of an overlong encoding", send: closeFrame(1000, "\xc0\x80"), codes: []int{1002, 1007}, drop: true},
	}
	for _, code := range []uint16{1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999} {
		rules = append(rules, rule{section: "7.4", name: fmt.Sprintf("code %d", code), send: closeFrame(code, "x"), codes: []int{int(code), 1000}})
	}
	for _, code := range []uint16{1012, 1013, 1014} { // registered since
		rules = append(rules, rule{section: "7.4", name: fmt.Sprintf("code %d", code), send: closeFrame(code, ""), codes: []int{int(code), 1000, 1002}, drop: true})
	}
	for _, code := range []uint16{0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535} {
		rules = append(rules, rule{section: "7.4", name: fmt.Sprintf("code %d", code), send: closeFrame(code, ""), codes: protocolError, drop: true})
	}
	return rules
}
