package main

import (
	"maps"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/atls-ws/atls-ws/internal/config"
)

// reachFlags lays the flags about programs and local ports over cfg.
func reachFlags(c *cli.Context, cfg *config.Device) error {
	cfg.AllowExec = cfg.AllowExec || c.Bool("allow-exec")
	forwards, err := pairs(c, "forward")
	if err != nil {
		return err
	}
	for _, listen := range slices.Sorted(maps.Keys(forwards)) {
		cfg.Forwards = append(cfg.Forwards, config.Forward{Listen: listen, Service: forwards[listen]})
	}
	return nil
}
