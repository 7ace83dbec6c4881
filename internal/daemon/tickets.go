package daemon

import (
	"context"
	"time"
)

// keepTurningTickets has session tickets encrypted with the key of the day,
// also on a machine whose clock is set.
func (r *reloader) keepTurningTickets(ctx context.Context) {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			r.turnTickets()
		case <-ctx.Done():
			return
		}
	}
}

// turnTickets uses the keys of now. When their file cannot be read, those of
// before stay: they are good for a week.
func (r *reloader) turnTickets() {
	keys, err := r.now.Load().TicketKeys(time.Now())
	if err != nil {
		r.d.log.Error("session tickets keep the keys they have", "err", err)
		return
	}
	if len(keys) > 0 {
		r.d.server.SetTicketKeys(keys)
	}
}
