package session

import (
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/internal/proto"
)

// A peer that opens more streams than a service accepts delays the others; only
// when nobody accepts for ten seconds are they refused.
func TestStreamsWaitForAPlace(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		a, b := net.Pipe()
		mux := new(Mux)
		ln, err := mux.Listen("slow")
		if err != nil {
			t.Fatal(err)
		}
		told := make(chan Limit, 100)
		e := connect(t, newArrivingConn(a), newArrivingConn(b), &Config{}, &Config{Mux: mux, Limited: func(l Limit) { told <- l }})
		for range waiting {
			c, err := e.client.Dial(t.Context(), "slow")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
		}
		if _, err := e.client.Dial(t.Context(), "slow"); !refusedAs(err, proto.Busy, "64 connections wait") {
			t.Errorf("nobody accepts: %v", err)
		}
		if len(told) != 1 || <-told != LimitPlaces {
			t.Error("the limit was not told")
		}
		time.AfterFunc(maxPlace/2, func() { _, _ = ln.Accept() })
		c, err := e.client.Dial(t.Context(), "slow")
		if err != nil {
			t.Errorf("one was accepted while it waited: %v", err)
		} else {
			_ = c.Close()
		}
		time.AfterFunc(maxPlace/2, func() { _ = ln.Close() })
		if _, err := e.client.Dial(t.Context(), "slow"); !refusedAs(err, proto.Busy, "slow") {
			t.Errorf("closed while it waited: %v", err)
		}
	})
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
