package device

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/forward"
)

// forwardWait is how long a connection to a local port waits for a session.
const forwardWait = 10 * time.Second

// forwards are the local ports that lead to services of the server.
type forwards struct {
	wg    sync.WaitGroup
	ports []*forward.Port
	names []string
}

// listen makes the ports; nothing is served yet. dial connects to a service of
// the server.
func (f *forwards) listen(ctx context.Context, list []config.Forward, dial func(ctx context.Context, service string) (net.Conn, error), log *slog.Logger) error {
	for _, one := range list {
		port, err := forward.Listen(ctx, one.Listen, func(ctx context.Context) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, forwardWait)
			defer cancel()
			return dial(ctx, one.Service)
		}, log.With("forward", one.Listen, "service", one.Service))
		if err != nil {
			f.close()
			return fmt.Errorf("forward to %s: %w", one.Service, err)
		}
		log.Info("forwarding", "addr", port.Addr().String(), "service", one.Service)
		f.ports = append(f.ports, port)
		f.names = append(f.names, one.Service)
	}
	return nil
}

// serve serves the ports until ctx ends; wait waits for that.
func (f *forwards) serve(ctx context.Context, log *slog.Logger) {
	for i, port := range f.ports {
		f.wg.Go(func() {
			if err := port.Serve(ctx); err != nil {
				log.Error("forward ended", "service", f.names[i], "err", err)
			}
		})
	}
}

func (f *forwards) wait() { f.wg.Wait() }

// close ends ports that are not served.
func (f *forwards) close() {
	for _, port := range f.ports {
		port.Close()
	}
}
