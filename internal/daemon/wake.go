package daemon

import (
	"context"
	"time"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/daemon/fleet"
)

// wake queues the signal config.SignalWake, with the name of the service as its
// data, for a device that somebody waits for: one that connects for a moment
// only, to fetch its signals, learns that it should stay. It expires with the
// wait.
func (d *daemon) wake(ctx context.Context, device, service string, wait time.Duration) {
	r := &fleet.Request{
		Target: fleet.Target{Device: device}, Name: config.SignalWake,
		ContentType: "text/plain; charset=utf-8", Data: []byte(service), TTL: wait,
	}
	id, err := d.fleet.Send(ctx, r, func(admin.Outcome) {})
	if err != nil {
		d.log.Warn("device is not woken", "device", device, "err", err)
		return
	}
	d.log.Info("wake queued", "device", device, "service", service, "signal", id, "wait", wait.String())
}
