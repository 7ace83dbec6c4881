//go:build !device

package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/forward"
)

// proxyService is the service that --socks goes through when none is named.
const proxyService = "proxy"

func forwardCommand() *cli.Command {
	return &cli.Command{
		Name:      "forward",
		Usage:     "lead a local port to a service of a device",
		ArgsUsage: "LISTEN DEVICE [SERVICE]",
		Description: "LISTEN is :8022 for this machine alone, *:8022 for every address, 127.0.0.1:0 for any free port,\n" +
			"udp:127.0.0.1:5353 for a service that is UDP, or unix:/path. The address is printed. It goes on until it is\n" +
			"interrupted: a connection waits ten seconds for a device or a server that is away, and is reset then.\n" +
			"With --socks it is a SOCKS5 server into the device's network, through the device's service \"proxy\", which\n" +
			"says where it connects to; names are resolved there:  curl --proxy socks5h://127.0.0.1:1080 http://intranet/",
		Flags: []cli.Flag{adminFlag(), &cli.BoolFlag{Name: "socks", Usage: "be a SOCKS5 server in front of the service, a proxy (default: " + proxyService + ")"}},
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, 2, 3); err != nil {
				return err
			}
			listen, device, service := c.Args().Get(0), c.Args().Get(1), c.Args().Get(2)
			network, _, err := config.ParseListen(listen)
			switch {
			case err != nil:
				return usagef(c, "LISTEN %w", err)
			case c.Bool("socks") && network == "udp":
				return usagef(c, "--socks listens on TCP or on a unix socket")
			case c.Bool("socks") && service == "":
				service = proxyService
			case service == "":
				return usagef(c, "want %s: SERVICE is missing", c.Command.ArgsUsage)
			}
			log := operatorLog(c.App.ErrWriter)
			port, err := forward.Listen(c.Context, listen, toDevice(c, device, service), log)
			if err != nil {
				return err
			}
			if c.Bool("socks") {
				port.SOCKS()
			}
			log.Info("forwarding", "addr", port.Addr().String(), "device", device, "service", service, "socks", c.Bool("socks"))
			if _, err := fmt.Fprintln(c.App.Writer, port.Addr()); err != nil {
				port.Close()
				return err
			}
			return port.Serve(c.Context)
		},
	}
}
