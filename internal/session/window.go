package session

import "time"

// A stream's window is what the peer may send before this end has read it, and
// so what a round trip can carry. yamux has one size for all streams of a
// session. The small one is enough for 200 Mbit/s where a round trip takes 8
// ms, and larger ones cost memory, and CPU for cache misses. All windows of a
// session together stay within Config.Unread; yamux's buffers double as they
// grow, which makes it twice that in memory at worst.
const (
	smallWindow  = 256 << 10
	middleWindow = 1 << 20 // to 25 ms
	largeWindow  = 2 << 20 // to 40 ms
	farWindow    = 4 << 20 // 200 Mbit/s at 60 ms and more: updates come by the half window

	// DefaultUnread is Config.Unread when it is 0.
	DefaultUnread = 128 << 20
	// MinUnread is the least that it is taken for.
	MinUnread = enoughStreams * smallWindow
	// enoughStreams have room before windows become larger.
	enoughStreams = 16
)

// A peer nearer than nearBy gets by with nearBuffer bytes under way, 400 Mbit/s and
// more: the kernel's own choice, megabytes, is cold by the time that it is read, a
// fifth of the CPU of 16 streams, and a signal waits behind all of it.
const (
	nearBy     = 2500 * time.Microsecond
	nearBuffer = 128 << 10 // Linux doubles it
)

// windowFor chooses by the time that the peer took to answer in the handshake, as
// limitedConn and Client find it: the round trip and some computing. 0 is not known. A peer can make
// it longer, and so the windows as large as Config.Unread lets them be.
func (c *Config) windowFor(rtt time.Duration) uint32 {
	want := uint32(smallWindow)
	switch {
	case rtt > 40*time.Millisecond:
		want = farWindow
	case rtt > 25*time.Millisecond:
		want = largeWindow
	case rtt > 8*time.Millisecond:
		want = middleWindow
	}
	for want > smallWindow && c.Unread/int(want) < enoughStreams {
		want /= 2
	}
	return want
}

// streams is how many streams with such windows the peer may have open.
func (c *Config) streams(window uint32) int { return min(c.Streams, c.Unread/int(window)) }

// refusals is how many streams more are told so; those have windows too.
func refusals(window uint32) int { return max(1, acceptBacklog*smallWindow/int(window)) }
