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
}

func (o *outerCounts) connected(s *server.Session) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.counts == nil {
		o.counts = map[string]admin.OuterCounts{}
	}
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
}

func (o *outerCounts) of(device string) admin.OuterCounts {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.counts[device]
}
