package daemon

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/forward"
)

// listenerWait is how long a connection to a local port waits for its device.
const listenerWait = 10 * time.Second

// listeners are local ports that lead to services of devices.
type listeners struct {
	wg     sync.WaitGroup
	cancel context.CancelFunc
	ports  []*forward.Port
}

// listen makes the ports; they are served from then on.
func (d *daemon) listen(ctx context.Context, cfg *config.Server) error {
	serving, cancel := context.WithCancel(context.Background())
	d.listeners.cancel = cancel
	for i, l := range cfg.Listeners {
		rule := fmt.Sprintf("listeners[%d]", i)
		if place := cfg.Place(rule); place != "" {
			rule += " (" + place + ")"
		}
		log := d.log.With("listener", l.Listen, "device", l.Device, "service", l.Service)
		port, err := forward.Listen(ctx, l.Listen, func(ctx context.Context) (net.Conn, error) {
			d.guard.Listener(l, "", rule)
			return d.reach.dial(ctx, l.Device, l.Service, listenerWait)
		}, log)
		if err != nil {
			return &StartError{fmt.Errorf("listeners: %w", err), "choose another listen, or end the program that has it"}
		}
		log.Info("listener leads to a device", "addr", port.Addr().String())
		d.listeners.ports = append(d.listeners.ports, port)
	}
	for _, port := range d.listeners.ports {
		d.listeners.wg.Go(func() {
			if err := port.Serve(serving); err != nil {
				d.log.Error("listener ended", "err", err)
			}
		})
	}
	return nil
}

func (l *listeners) close() {
	if l.cancel != nil {
		l.cancel()
	}
	for _, port := range l.ports {
		port.Close()
	}
	l.wg.Wait()
}
