package session

import "time"

// A stream's window is what the peer may send before this end has read it, and
// so what a round trip can carry. yamux has one size for all streams of a
// session. The small one is enough for 200 Mbit/s where a round trip takes 8
// ms, and larger ones cost memory, and CPU for cache misses. All streams of a
// session may hold windowBudget together, so a far device can have fewer; yamux's
// buffers double as they grow, which makes it twice that in memory at worst.
const (
	smallWindow  = 256 << 10
	middleWindow = 1 << 20 // to 25 ms
	largeWindow  = 2 << 20 // to 40 ms
	farWindow    = 4 << 20 // 200 Mbit/s at 60 ms and more: updates come by the half window
	windowBudget = 128 << 20
)

// windowFor chooses by the shortest time that the peer took to answer in the
// handshake: the round trip and some computing. 0 is not known. A peer can make
// it longer, and so the windows as large as the budget lets them be.
func windowFor(rtt time.Duration) uint32 {
	switch {
	case rtt > 40*time.Millisecond:
		return farWindow
	case rtt > 25*time.Millisecond:
		return largeWindow
	case rtt > 8*time.Millisecond:
		return middleWindow
	}
	return smallWindow
}

// streams is how many streams with such windows the peer may have open.
func (c *Config) streams(window uint32) int { return min(c.Streams, windowBudget/int(window)) }

// refusals is how many streams more are told so; those have windows too.
func refusals(window uint32) int { return max(1, acceptBacklog*smallWindow/int(window)) }
