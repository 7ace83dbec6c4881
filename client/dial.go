package client

import (
	"context"
	"fmt"
	"time"

	"github.com/atls-ws/atls-ws/internal/session"
	"github.com/atls-ws/atls-ws/wsconn"
)

// DefaultPath is where a server serves its carriers.
const DefaultPath = wsconn.DefaultPath

// UpgradeError says that the carrier was not opened: what HTTP answered
// instead. StatusCode is 0 when nothing did.
type UpgradeError = wsconn.UpgradeError

const (
	dialTimeout  = 10 * time.Second // TCP, outer TLS and the upgrade
	readyTimeout = 10 * time.Second // inner handshake to Ready
)

// Dial makes one session and returns after the server's Ready. The caller owns
// the session and closes it. ctx bounds the dialing, not the session; so do
// ten seconds for the carrier and ten for the inner handshake.
func Dial(ctx context.Context, c *Config) (*Session, error) {
	cfg, err := c.complete()
	if err != nil {
		return nil, err
	}
	return dial(ctx, cfg)
}

func dial(ctx context.Context, cfg *Config) (*Session, error) {
	hop := &outerHop{cfg: *cfg.Outer}
	carrierCtx, cancel := context.WithTimeoutCause(ctx, dialTimeout, fmt.Errorf("no carrier within %s", dialTimeout))
	defer cancel()
	conn, err := wsconn.Dial(carrierCtx, cfg.URL, &wsconn.DialOptions{TLS: hop.tlsConfig(), Proxy: cfg.Proxy})
	if r := hop.report; r != nil && len(r.Chain) > 0 {
		cfg.Logger.Info("outer certificate", "subject", r.Chain[0].Subject, "issuer", r.Chain[0].Issuer, "verified", r.Verified, "sha256", r.Chain[0].SHA256)
	}
	if err != nil {
		return nil, fmt.Errorf("carrier: %w", err)
	}
	hop.exporter(conn.ConnectionState())
	readyCtx, cancel := context.WithTimeoutCause(ctx, readyTimeout, fmt.Errorf("no ready within %s", readyTimeout))
	defer cancel()
	return session.Client(readyCtx, conn, &session.Config{
		TLS: cfg.TLS, Mux: cfg.Mux, Logger: cfg.Logger,
		Hello: session.Hello{Software: cfg.Software, Carrier: "websocket", Outer: hop.report},
	})
}
