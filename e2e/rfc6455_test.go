//go:build e2e

package e2e

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// rule is a sentence of RFC 6455 about frames, as bytes that a client sends after
// the 101 and the reactions that the sentence allows the server.
type rule struct {
	section, name string
	send          []byte
	// codes are the close codes of which the server's close frame has one. With
	// drop the connection may also end without a close frame, with serves it may
	// also go on.
	codes  []int
	drop   bool
	serves bool
	// Otherwise the connection goes on, which the pong to a last ping shows: to the
	// one that send ends with, or to one that is added. Of the pings before it some
	// or all are answered, in order: RFC 6455, 5.5.3, lets an end answer the latest
	// alone. flight says that the server's TLS has answered the bytes of a ClientHello.
	last   string
	pongs  []string
	flight bool
	// echo is the payload of the server's close frame, byte for byte.
	echo []byte
}

// protocolError is what most breaches may lead to: docs/PROTOCOL.md promises 1002,
// and RFC 6455, 7.1.7, lets an end drop the connection.
var protocolError = []int{1002}

// reaction is all that came of the bytes.
type reaction struct {
	closed *gotFrame // the server's close frame
	ended  bool      // the connection
	after  int       // frames behind the close frame
	pongs  []string
	stream []byte // payloads of binary messages
	err    error  // a frame of the server's that breaks the RFC
}

const alivePing = "still there?"

// goesOn says that nothing but a sign of life is expected.
func (r rule) goesOn() bool { return len(r.codes) == 0 && r.echo == nil && !r.drop }

// TestRFC6455 holds the built server to RFC 6455, section by section. That it
// masks nothing, says no more than it may, and in the least bytes, is looked at in
// each frame that it sends.
func TestRFC6455(t *testing.T) {
	t.Parallel()
	a := newArena(t, "")
	t.Run("upgrade", a.rfcUpgrade)
	t.Run("frames", a.rfcFrames)
	t.Run("largest message", a.rfcLargestMessage)
	t.Run("ends of the server", a.rfcEndsOfTheServer)
	a.settled(t)
}

// rfcFrames are chapters 5, 7, 8 and 10.
func (a *arena) rfcFrames(t *testing.T) {
	clientHello := helloRecord(t)
	rules := slices.Concat(framingRules(clientHello), closingRules())
	all(t, rules, func(r rule) string { return r.section + " " + r.name }, func(t *testing.T, r rule) {
		w := dialTCP(t, a.addr).outerTLS(t).upgrade(t)
		send := r.send
		if (r.goesOn() || r.serves) && r.last == "" {
			r.last = alivePing
			send = append(bytes.Clone(send), frame(fin|opPing, []byte(r.last))...)
		}
		go func() { _, _ = w.Write(send) }() // the server may close before it has all
		r.check(t, w.react(r))
		_ = w.tcp.Close()
	})
	a.healthy(t)
}

// react reads until the connection ends, or what was hoped for has come.
func (w *wire) react(r rule) (got reaction) {
	_ = w.SetReadDeadline(time.Now().Add(slack))
	for {
		f, err := readFrame(w.in)
		switch {
		case errors.Is(err, errServerFrame):
			got.err = err
			return got
		case errors.Is(err, os.ErrDeadlineExceeded):
			return got
		case err != nil:
			got.ended = true
			return got
		case got.closed != nil:
			got.after++
		case f.op() == opClose:
			got.closed = &f
			// RFC 6455, 5.5.1: a client that is closed on answers.
			_, _ = w.Write(frame(fin|opClose, f.payload))
		case f.op() == opPong:
			got.pongs = append(got.pongs, string(f.payload))
		case f.op() == opBinary || f.op() == opContinue:
			got.stream = append(got.stream, f.payload...)
		default:
			got.err = errServerFrame
			return got
		}
		if got.closed == nil && got.served(r) && (!r.flight || got.flight()) {
			return got
		}
	}
}

// served says whether the last ping was answered.
func (g reaction) served(r rule) bool { return r.last != "" && slices.Contains(g.pongs, r.last) }

func (g reaction) flight() bool { return strings.HasPrefix(string(g.stream), "\x16\x03\x03") }

// check compares the reaction with what the rule allows.
func (r rule) check(t *testing.T, got reaction) {
	t.Helper()
	if got.err != nil {
		t.Fatal(got.err)
	}
	served := got.served(r)
	if sent := append(slices.Clone(r.pongs), r.last); !within(got.pongs, sent) {
		t.Errorf("pongs %q, to pings %q", got.pongs, sent)
	}
	switch {
	case r.goesOn() || r.serves && served:
		if !served {
			t.Errorf("no pong %q (close frame: %+v, ended: %v)", r.last, got.closed, got.ended)
		}
		if r.flight && !got.flight() {
			t.Errorf("the ClientHello is not answered: %.50q", got.stream)
		}
		return
	case served:
		t.Error("the connection goes on")
	case !got.ended:
		t.Errorf("the connection does not end within %s", slack)
	case got.closed == nil:
		if !r.drop {
			t.Error("the connection ends without a close frame")
		}
	case r.echo != nil && !bytes.Equal(got.closed.payload, r.echo):
		t.Errorf("the close frame has %q, want %q", got.closed.payload, r.echo)
	case r.codes != nil && !slices.Contains(r.codes, got.closed.code()):
		t.Errorf("closed with %d, want one of %d", got.closed.code(), r.codes)
	}
	if got.after > 0 {
		t.Errorf("5.5.1: %d frames behind the close frame", got.after)
	}
	if c := got.closed; c != nil && (len(c.payload) == 1 || len(c.payload) > 2 && !utf8.Valid(c.payload[2:]) || !mayBeSent(c.code())) {
		t.Errorf("7.4, 8.1: a close frame that none may send: %q", c.payload)
	}
}

// within says whether all of part are in whole, in order.
func within(part, whole []string) bool {
	for _, p := range part {
		i := slices.Index(whole, p)
		if i < 0 {
			return false
		}
		whole = whole[i+1:]
	}
	return true
}

// mayBeSent says whether a code, or 1005 for none, may be in a close frame.
func mayBeSent(code int) bool {
	return code >= 1000 && code <= 1014 && code != 1004 && code != 1006 || code >= 3000 && code <= 4999
}

// rfcEndsOfTheServer are 5.5.1 and 7.1.1. The server that has sent a close frame
// waits for the client's for a bounded time, and ends TCP first.
func (a *arena) rfcEndsOfTheServer(t *testing.T) {
	all(t, []bool{true, false}, func(answers bool) string { return map[bool]string{true: "answered", false: "not answered"}[answers] }, func(t *testing.T, answers bool) {
		w := dialTCP(t, a.addr).outerTLS(t).upgrade(t)
		_, _ = w.Write(message([]byte("no inner TLS")))
		_ = w.SetReadDeadline(time.Now().Add(slack))
		for {
			f, err := readFrame(w.in)
			if err != nil {
				t.Fatalf("no close frame: %v", err)
			}
			if f.op() == opClose {
				if f.code() != 1000 {
					t.Errorf("closed with %d", f.code())
				}
				break
			}
		}
		if answers {
			_, _ = w.Write(closeFrame(1000, ""))
		}
		if rest, err := io.ReadAll(w); len(rest) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after the close frame: %q, %v", rest, err)
		}
	})
}
