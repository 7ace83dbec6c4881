package client

import (
	"crypto/tls"
	"fmt"

	"github.com/atls-ws/atls-ws/internal/session"
)

// Update replaces Config.TLS and Config.Outer, as after a renewed certificate or
// a new bundle of anchors. With another certificate Run makes a new session and
// moves to it as soon as it is ready: the one before ends when its streams have
// ended, after five minutes at most. Otherwise the session that is up goes on, and
// what is new holds for the next. A pause before the next try ends at once.
func (c *Client) Update(inner *tls.Config, outer *OuterConfig) error {
	if err := session.CheckClientTLS(inner); err != nil {
		return fmt.Errorf("client: %w", err)
	}
	complete, err := outer.complete()
	if err != nil {
		return err
	}
	c.mu.Lock()
	cfg := *c.cfg
	cfg.TLS, cfg.Outer = resuming(inner), complete
	c.cfg = &cfg
	c.mu.Unlock()
	select {
	case c.updated <- struct{}{}:
	default:
	}
	return nil
}

// config is the configuration for the next session.
func (c *Client) config() *Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cfg
}
