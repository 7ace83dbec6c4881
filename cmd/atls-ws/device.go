package main

import (
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/device"
)

func deviceCommand() *cli.Command {
	flags := append(append(roleFlags("configs/device.yaml"), sessionFlags()...),
		&cli.BoolFlag{Name: "enroll", Usage: "get the certificate of --cert and --key from the server where it is missing, and renew it"},
		&cli.StringFlag{Name: "enroll-token", Usage: "`FILE` with a one-time token to enroll with"},
		&cli.StringFlag{Name: "enroll-id", Usage: "`ID` of the device to enroll (default: that of the factory certificate)"},
		&cli.StringFlag{Name: "factory-cert", Usage: "`FILE` with the certificate that the device was made with, to enroll with"},
		&cli.StringFlag{Name: "factory-key", Usage: "`FILE` with its key"},
		&cli.BoolFlag{Name: "early-hello", Usage: "send the inner TLS's beginning behind the upgrade request: a round trip less, where no box minds"},
		&cli.BoolFlag{Name: "once", Usage: "end with the first session instead of reconnecting; exit 1 says why on stderr"},
		&cli.StringFlag{Name: "outer", Usage: "report accepts any outer certificate and reports it, verify refuses one that does not verify, pin one without a pinned key (default: verify with --outer-roots, else report)"},
		&cli.StringSliceFlag{Name: "outer-pin", Usage: "`KEY` for --outer pin: sha256/ and the base64 of the sum of a SubjectPublicKeyInfo"},
		&cli.StringFlag{Name: "outer-roots", Usage: "`FILE` with CAs for the outer certificate, beside the system's"},
		&cli.StringFlag{Name: "state", Usage: "`FOLDER` for how far queued signals were handled, so that none is handled twice over a restart (default: in memory)"},
		&cli.StringSliceFlag{Name: "service", Usage: "let the server reach `NAME=TARGET`: tcp://host:port, http://host:port, unix:///path, udp://host:port, exec:PROGRAM ARGUMENTS or proxy:DESTINATIONS"},
		&cli.BoolFlag{Name: "allow-exec", Usage: "let services be programs (exec:)"},
		&cli.StringSliceFlag{Name: "forward", Usage: "lead a local port to a service of the server: `LISTEN=SERVICE`, with LISTEN :port, host:port, udp:host:port or unix:/path"},
		&cli.StringSliceFlag{Name: "on", Usage: "run a command for a signal: `NAME=COMMAND`, with NAME * for any other"},
	)
	return &cli.Command{
		Name:  "device",
		Usage: "connect to the server, run commands for its signals, offer services",
		Description: "A command of --on is run by sh -c with the signal's data on its standard input and\n" +
			"ATLS_SIGNAL_NAME, ATLS_SIGNAL_ID and ATLS_CONTENT_TYPE in its environment. Exit status 0 acks the\n" +
			"signal with the last line of standard output; any other refuses it with the last line of standard\n" +
			"error. It has 30 seconds. Signals are handled one after the other.",
		Flags:       append(flags, logFlags()...),
		Action:      runDevice,
		Subcommands: []*cli.Command{deviceStatusCommand()},
	}
}

var deviceFields = map[string]string{
	"url": "url", "inner.cert": "cert", "inner.key": "key", "inner.ca": "ca", "inner.server_name": "server-name",
	"carrier": "carrier", "early_hello": "early-hello", "outer.policy": "outer", "outer.pins": "outer-pin", "outer.roots": "outer-roots", "proxy": "proxy", "state": "state", "enroll.token": "enroll-token", "enroll.device": "enroll-id", "enroll.factory_cert": "factory-cert", "enroll.factory_key": "factory-key", "log.level": "log-level", "log.format": "log-format",
}

func runDevice(c *cli.Context) error {
	if err := wantArgs(c, 0, 0); err != nil {
		return err
	}
	cfg, err := deviceConfig(c)
	if err != nil {
		return err
	}
	if c.Bool("check") {
		if err := cfg.Check(); err != nil {
			return err
		}
		return checked(c.App.Writer)
	}
	oneCore()
	log := cfg.Log.Logger(c.App.ErrWriter)
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)
	err = device.Run(c.Context, cfg, device.Options{
		Logger: log, Software: "atls-ws/" + version(), Once: c.Bool("once"), ConfigFile: c.String("config"), Reload: reload,
		Load:         func() (*config.Device, error) { return deviceConfig(c) },
		Explain:      func(err error) (string, string) { return words(explain(err, cfg)) },
		OnDisconnect: (&complaint{log: log, explain: func(err error) (string, string) { return words(explain(err, cfg)) }}).say,
	})
	return explain(err, cfg)
}

// oneCore keeps a device to one core unless GOMAXPROCS says otherwise: one session
// needs less CPU and answers faster than on two that wake each other for every
// message, and a core is faster than the lines of devices (docs/PERFORMANCE.md).
func oneCore() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
}

// sessionFlags say whom a device connects to and who it is, in every verb that
// makes a session.
func sessionFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "url", Usage: "`URL` of the server: https, wss, http or ws", EnvVars: []string{"ATLS_WS_URL"}},
		&cli.StringFlag{Name: "cert", Usage: "`FILE` with the device's inner certificate"},
		&cli.StringFlag{Name: "key", Usage: "`FILE` with its key"},
		&cli.StringFlag{Name: "ca", Usage: "`FILE` with the CA that vouches for the server's inner certificate"},
		&cli.StringFlag{Name: "server-name", Usage: "`NAME` in the server's inner certificate (default: atls-ws)"},
		&cli.StringFlag{Name: "carrier", Usage: "auto, websocket or post (default: auto)", EnvVars: []string{"ATLS_WS_CARRIER"}},
		&cli.StringFlag{Name: "proxy", Usage: "`URL` of the proxy, or direct (default: the environment's); a password belongs into the variable", EnvVars: []string{"ATLS_WS_PROXY"}},
	}
}

// readDevice reads the file and lays the session flags over it. Beside an error,
// the result is what could be read, or nil.
func readDevice(c *cli.Context) (*config.Device, error) {
	cfg, err := config.DefaultDevice(), error(nil)
	if file := c.String("config"); file != "" {
		if cfg, err = config.ReadDevice(file); cfg == nil {
			return nil, err
		}
	}
	overlay(c, map[string]*string{
		"url": &cfg.URL, "cert": &cfg.Inner.Cert, "key": &cfg.Inner.Key, "ca": &cfg.Inner.CA, "server-name": &cfg.Inner.ServerName,
		"carrier": &cfg.Carrier, "outer": &cfg.Outer.Policy, "outer-roots": &cfg.Outer.Roots, "proxy": &cfg.Proxy, "state": &cfg.State,
		"enroll-token": &cfg.Enroll.Token, "enroll-id": &cfg.Enroll.Device, "factory-cert": &cfg.Enroll.FactoryCert, "factory-key": &cfg.Enroll.FactoryKey,
		"log-level": &cfg.Log.Level, "log-format": &cfg.Log.Format,
	})
	return cfg, err
}

// deviceConfig reads the file, lays the flags over it and validates the result.
func deviceConfig(c *cli.Context) (*config.Device, error) {
	cfg, readErr := readDevice(c)
	if cfg == nil {
		return nil, readErr
	}
	cfg.Enroll.On = cfg.Enroll.On || c.Bool("enroll")
	cfg.EarlyHello = cfg.EarlyHello || c.Bool("early-hello")
	if c.IsSet("outer-pin") {
		cfg.Outer.Pins = c.StringSlice("outer-pin")
	}
	services, err := pairs(c, "service")
	if err != nil {
		return nil, err
	}
	for name, target := range services {
		if cfg.Services == nil {
			cfg.Services = map[string]string{}
		}
		cfg.Services[name] = target
	}
	if err := reachFlags(c, cfg); err != nil {
		return nil, err
	}
	on, err := pairs(c, "on")
	if err != nil {
		return nil, err
	}
	for name, command := range on {
		if cfg.Signals == nil {
			cfg.Signals = map[string]config.Command{}
		}
		cfg.Signals[name] = config.Command{Command: []string{"sh", "-c", command}}
	}
	return cfg, invalid(c, deviceFields, readErr, cfg.Validate())
}
