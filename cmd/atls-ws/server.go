//go:build !device

package main

import (
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/daemon"
	"github.com/atls-ws/atls-ws/internal/daemon/access"
)

func serverCommand() *cli.Command {
	flags := append(roleFlags("configs/server.yaml"),
		&cli.BoolFlag{Name: "dev", Usage: "try it out: make what is missing under --dir and print the commands to paste"},
		&cli.StringFlag{Name: "dir", Value: "atls-ws-dev", Usage: "`FOLDER` of --dev"},
		&cli.StringFlag{Name: "listen", Usage: "`HOST:PORT` for devices (default: " + config.DefaultListen + ")"},
		&cli.StringFlag{Name: "inner-cert", Usage: "`FILE` with the server's inner certificate"},
		&cli.StringFlag{Name: "inner-key", Usage: "`FILE` with its key"},
		&cli.StringFlag{Name: "client-ca", Usage: "`FILE` with the CA that vouches for devices"},
		&cli.StringFlag{Name: "outer-cert", Usage: "`FILE` with the listener's public certificate; none speaks plain HTTP, behind a terminator"},
		&cli.StringFlag{Name: "outer-key", Usage: "`FILE` with its key"},
		&cli.StringFlag{Name: "data", Usage: "`FOLDER` in which signals are kept (default: " + config.DefaultData() + ")", EnvVars: []string{"ATLS_WS_DATA"}},
		&cli.StringFlag{Name: "nats", Usage: "`URL` of a NATS server or cluster that keeps the signals instead (default: inside this server)", EnvVars: []string{"ATLS_WS_NATS"}},
		&cli.StringFlag{Name: "node", Usage: "`NAME` of this node of a cluster; in paths of the configuration, {node} stands for it", EnvVars: []string{"ATLS_WS_NODE"}},
		&cli.StringFlag{Name: "cluster-listen", Usage: "`HOST:PORT` for the other nodes", EnvVars: []string{"ATLS_WS_CLUSTER_LISTEN"}},
		&cli.StringFlag{Name: "cluster-advertise", Usage: "`HOST:PORT` as the other nodes reach it (default: cluster-listen)", EnvVars: []string{"ATLS_WS_CLUSTER_ADVERTISE"}},
		&cli.StringFlag{Name: "nats-listen", Usage: "`HOST:PORT` for the NATS inside the other nodes", EnvVars: []string{"ATLS_WS_NATS_LISTEN"}},
		&cli.DurationFlag{Name: "drain", Usage: "how long devices have to move to another node, or come back, when the server stops (default: 10s)", EnvVars: []string{"ATLS_WS_DRAIN"}},
		&cli.BoolFlag{Name: "allow-exec", Usage: "let services of the configuration be programs"},
		adminFlag(),
	)
	flags = append(flags, logFlags()...)
	return &cli.Command{
		Name:        "server",
		Usage:       "take devices' connections, and let operators push to them and dial them",
		Flags:       flags,
		Action:      runServer,
		Subcommands: []*cli.Command{serverStatusCommand()},
	}
}

var serverFields = map[string]string{
	"listen": "listen", "inner.cert": "inner-cert", "inner.key": "inner-key", "inner.client_ca": "client-ca",
	"outer.cert": "outer-cert", "outer.key": "outer-key", "admin": "admin", "data": "data", "nats.url": "nats", "cluster.node": "node", "cluster.listen": "cluster-listen",
	"cluster.advertise": "cluster-advertise", "nats.cluster.listen": "nats-listen", "drain": "drain", "log.level": "log-level", "log.format": "log-format",
}

func runServer(c *cli.Context) error {
	if err := wantArgs(c, 0, 0); err != nil {
		return err
	}
	cfg, err := serverConfig(c)
	if err != nil {
		return err
	}
	if c.Bool("check") {
		if err := cfg.Check(); err != nil {
			return err
		}
		if err := checkTokens(cfg); err != nil {
			return err
		}
		return checked(c.App.Writer)
	}
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)
	o := daemon.Options{Logger: cfg.Log.Logger(c.App.ErrWriter), ConfigFile: c.String("config"), Reload: reload, Version: version()}
	if o.ConfigFile != "" {
		o.Load = func() (*config.Server, error) { return serverConfig(c) }
	}
	if c.Bool("dev") {
		o.Ready = func(addr net.Addr, admin string) { printDev(c.App.Writer, c.String("dir"), cfg, addr, admin) }
	}
	return daemon.Run(c.Context, cfg, o)
}

// serverConfig reads the file, lays the flags over it and validates the result.
func serverConfig(c *cli.Context) (*config.Server, error) {
	cfg, readErr := config.DefaultServer(), error(nil)
	switch file := c.String("config"); {
	case file != "" && c.Bool("dev"):
		return nil, usagef(c, "--dev and --config exclude each other")
	case c.IsSet("dir") && !c.Bool("dev"):
		return nil, usagef(c, "--dir goes with --dev")
	case file != "":
		if cfg, readErr = config.ReadServer(file); cfg == nil {
			return nil, readErr
		}
	}
	overlay(c, map[string]*string{
		"listen": &cfg.Listen, "inner-cert": &cfg.Inner.Cert, "inner-key": &cfg.Inner.Key, "client-ca": &cfg.Inner.ClientCA,
		"outer-cert": &cfg.Outer.Cert, "outer-key": &cfg.Outer.Key, "admin": &cfg.Admin, "data": &cfg.Data, "nats": &cfg.NATS.URL,
		"node": &cfg.Cluster.Node, "cluster-listen": &cfg.Cluster.Listen, "cluster-advertise": &cfg.Cluster.Advertise, "nats-listen": &cfg.NATS.Cluster.Listen,
		"log-level": &cfg.Log.Level, "log-format": &cfg.Log.Format,
	})
	cfg.AllowExec = cfg.AllowExec || c.Bool("allow-exec")
	if c.IsSet("drain") {
		cfg.Drain = c.Duration("drain")
	}
	cfg.ForNode()
	if c.Bool("dev") {
		if err := makeDev(c.String("dir"), cfg); err != nil {
			return nil, err
		}
	}
	return cfg, invalid(c, serverFields, readErr, cfg.Validate())
}

// checkTokens reads the file of the console's tokens, if there is one.
func checkTokens(cfg *config.Server) error {
	if cfg.Console.Tokens == "" {
		return nil
	}
	_, err := access.LoadTokens(cfg.Console.Tokens)
	return withNext(err, access.NextTokens)
}
