package session

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/atls-ws/atls-ws/internal/proto"
)

// A device that opens more streams than a service accepts is refused, and nobody else.
func TestStreamsWaitToBeAccepted(t *testing.T) {
	mux := new(Mux)
	ln, err := mux.Listen("slow")
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan Limit, 100)
	flooder, other := ends{}, ends{}
	for i, e := range []*ends{&flooder, &other} {
		a, b := net.Pipe()
		*e = connect(t, a, b, nil, &Config{
			Mux: mux, Limited: func(l Limit) { told <- l },
			Admit: func(tls.ConnectionState, *Hello) (string, error) { return strconv.Itoa(i), nil },
		})
	}
	for range waitOfDevice {
		c, err := flooder.client.Dial(t.Context(), "slow")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
	}
	if _, err := flooder.client.Dial(t.Context(), "slow"); !refusedAs(err, proto.Busy, "64 of this device") {
		t.Errorf("one too many: %v", err)
	}
	if len(told) != 1 || <-told != LimitWaiting {
		t.Error("the limit was not told")
	}
	last, err := other.client.Dial(t.Context(), "slow")
	if err != nil {
		t.Fatalf("another device: %v", err)
	}
	if _, err := ln.Accept(); err != nil {
		t.Fatal(err)
	}
	c, err := flooder.client.Dial(t.Context(), "slow")
	if err != nil {
		t.Fatalf("one was accepted: %v", err)
	}
	_ = ln.Close()
	if _, err := last.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("what was never accepted ended in order: %v", err)
	}
	_ = c.Close()
	if _, err := other.client.Dial(t.Context(), "slow"); !refusedAs(err, proto.NotFound, "slow") {
		t.Errorf("closed: %v", err)
	}
}

// All that wait are bounded, whatever device they are of.
func TestWaitingConnectionsAreBounded(t *testing.T) {
	mux := new(Mux)
	ln, err := mux.Listen("http")
	if err != nil {
		t.Fatal(err)
	}
	a, b := net.Pipe()
	defer func() { _, _ = a.Close(), b.Close() }()
	for i := range waitOfAll {
		if err := Offer(mux, "http", strconv.Itoa(i), a); err != nil {
			t.Fatal(err)
		}
	}
	if err := Offer(mux, "http", "last", a); !errors.Is(err, ErrWaiting) {
		t.Errorf("one too many: %v", err)
	}
	for range waitOfAll {
		if c, err := ln.Accept(); err != nil || c != a {
			t.Fatal(c, err)
		}
	}
	if l := ln.(*listener); len(l.waits) != 0 || len(l.conns) != 0 {
		t.Errorf("left: places of %d devices, %d connections", len(l.waits), len(l.conns))
	}
}

// What yamux resets by itself, before anything of ours sees it, is counted too.
func TestEveryRefusedStreamIsCounted(t *testing.T) {
	a, b := net.Pipe()
	var refused atomic.Int32
	e := connect(t, a, b, nil, &Config{Limited: func(Limit) { refused.Add(1) }})
	const opened = 5000
	for i := range uint32(opened) {
		e.client.frames.cutIn(frame(frameWindow, flagSYN, 10_001+2*i, 0))
	}
	eventually(t, func() bool { return int(refused.Load()) >= opened-DefaultStreams })
	eventually(t, func() bool { return int(refused.Load()+e.server.inbound.Load()) >= opened })
}

func refusedAs(err error, code proto.Code, text string) bool {
	r := (*RefusedError)(nil)
	return errors.As(err, &r) && r.Code == code && strings.Contains(r.Text, text)
}
