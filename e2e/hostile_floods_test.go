//go:build e2e

package e2e

import (
	"strings"
	"testing"
)

// many is how many streams a peer opens that opens too many.
const many = 10_000

// hostileFloods are attacks of a device that is let in, by number.
var hostileFloods = []attack{
	{name: "yamux: a flood of pings, pongs read", at: muxed, do: func(f *foe) {
		defer f.drain()()
		for range many / 50 {
			f.send(strings.Repeat(mux(yPing, ySYN, 0, ""), 50))
		}
	}, ends: deadTime, says: []string{"device disconnected"}},
	{name: "yamux: a flood of pings, pongs not read", at: muxed, do: func(f *foe) {
		ping := strings.Repeat(mux(yPing, ySYN, 0, ""), 1000)
		for range 10_000 {
			if !f.send(ping) {
				return
			}
		}
	}, ends: atOnce, says: []string{"device disconnected"}},
	{name: "streams: 10,000", at: muxed, do: streams(func(id uint32) string { return mux(yWindow, ySYN, id, "") }), ends: deadTime, says: []string{"device disconnected"}},
	{name: "streams: 10,000 to a service", at: muxed, do: streams(func(id uint32) string { return mux(yData, ySYN, id, "\x01\x04http") }), ends: deadTime, says: []string{"stream refused", "code=busy"}},
	{name: "streams: 10,000 that are reset at once", at: muxed, do: streams(func(id uint32) string {
		return mux(yData, ySYN, id, "\x01\x04http") + mux(yWindow, yRST, id, "")
	}), ends: deadTime, says: []string{"device disconnected"}},
	{name: "streams: 10,000 that are ended at once", at: muxed, do: streams(func(id uint32) string {
		return mux(yData, ySYN, id, "\x01\x04http") + mux(yWindow, yFIN, id, "")
	}), ends: deadTime, says: []string{"device disconnected"}},
}

// streams opens many, reading what comes, and sees beside them that others are served.
func streams(open func(id uint32) string) func(*foe) {
	return func(f *foe) {
		defer f.drain()()
		var batch strings.Builder
		for n := range uint32(many) {
			batch.WriteString(open(2*n + 1))
			if n%100 == 99 {
				if !f.send(batch.String()) {
					return
				}
				batch.Reset()
			}
		}
		f.a.healthy(f.T)
	}
}

// TestHostileFloods has a server of its own: what it says of them would cover what
// it says of others; and the machine to itself.
func TestHostileFloods(t *testing.T) {
	a := newArena(t, hostileConfig)
	all(t, hostileFloods, func(k attack) string { return k.name }, a.run)
	a.settled(t)
}
