package daemon

import (
	"sync"

	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/server"
)

// outerCounts counts, for each device since the start, what its sessions met on
// the outer hop. Only a device with a certificate adds an entry.
type outerCounts struct {
	mu     sync.Mutex
	counts map[string]admin.OuterCounts
	latest map[string]string // what the device's latest session met
}

func (o *outerCounts) connected(s *server.Session) (was, now string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.counts == nil {
		o.counts, o.latest = map[string]admin.OuterCounts{}, map[string]string{}
	}
	was, now = o.latest[s.Device()], outerState(s.Hello().Outer)
	o.latest[s.Device()] = now
	c := o.counts[s.Device()]
	c.Sessions++
	if r := s.Hello().Outer; r != nil {
		if r.Intercepted {
			c.Intercepted++
		}
		if !r.Verified {
			c.Unverified++
		}
	}
	o.counts[s.Device()] = c
	return was, now
}

// outerState is what a device met, in a word or two.
func outerState(r *server.OuterReport) string {
	switch {
	case r == nil || len(r.Chain) == 0:
		return "no tls"
	case r.Intercepted:
		return "intercepted"
	case r.Verified:
		return "verified"
	}
	return "not verified"
}

func (o *outerCounts) of(device string) admin.OuterCounts {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.counts[device]
}
