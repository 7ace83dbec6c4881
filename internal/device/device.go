package device

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/expose"
	"github.com/atls-ws/atls-ws/internal/limit"
	"github.com/atls-ws/atls-ws/internal/systemd"
)

// Options are what is not part of the configuration file.
type Options struct {
	// Logger is required.
	Logger *slog.Logger
	// Software names the program to the server.
	Software string
	// Once ends after one session instead of reconnecting.
	Once bool
	// OnDisconnect is called with the reason for which there is no session and
	// the pause before the next try; it may be nil. Once does not call it.
	OnDisconnect func(err error, retry time.Duration)
	// Explain gives an error's reason and next step in the words of the local
	// status; nil: its own.
	Explain func(err error) (reason, next string)
	// ConfigFile is where the configuration was read from, empty: nowhere; Load
	// reads and validates it again, nil: it stays, and only the files that it names
	// are read again. Reload asks for that; nil: only a change does.
	ConfigFile string
	Load       func() (*config.Device, error)
	Reload     <-chan os.Signal
}

// Run is a device until ctx ends; it then returns nil and nothing of it still
// runs. cfg has been validated. With Once it returns the error for which
// there was no session or for which it ended.
func Run(ctx context.Context, cfg *config.Device, o Options) error {
	clock := newClock(cfg, time.Now)
	clock.say(o.Logger)
	cfg.SetClock(clock.Now)
	state, err := openState(cfg.State, o.Logger)
	if err != nil {
		return err
	}
	cc, err := clientConfig(cfg, o)
	if err != nil {
		return err
	}
	cc.Streams, cc.Unread, cc.Applied = cfg.Limits.Streams, cfg.Limits.Unread, state.applied
	handleSignals(cc.Mux, cfg, o.Logger)
	services, err := expose.Start(cc.Mux, cfg.Services, expose.Options{
		Logger: o.Logger, Limits: &limit.Peers{Rate: cfg.Limits.Rate, Each: cfg.Limits.StreamRate},
	})
	if err != nil {
		return err
	}
	defer services.Close()
	var f forwards
	defer f.wait()
	var beside sync.WaitGroup
	defer beside.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if o.Once {
		if cfg.Enroll.On {
			if err := enrolled(ctx, &beside, cc, cfg, o); err != nil {
				return stopped(ctx, err)
			}
		}
		return once(ctx, cc, &f, cfg.Forwards)
	}
	status := newStatus(o, cfg.URL, state, clock)
	status.listen(ctx)
	defer status.close()
	told := o.OnDisconnect
	o.OnDisconnect = func(err error, retry time.Duration) {
		status.disconnected(err, retry)
		_ = systemd.Notify(systemd.Status("not connected: " + status.get().LastError))
		if told != nil {
			told(err, retry)
		}
	}
	beside.Go(func() { state.run(ctx) })
	var running atomic.Pointer[client.Client]
	beside.Go(func() {
		systemd.Feed(ctx, func() error {
			_ = status.get()
			if c := running.Load(); c != nil {
				_ = c.Session()
			}
			return nil
		})
	})
	// It is up before it has a certificate: that may take as long as a server is away.
	_ = systemd.Notify(systemd.Ready)
	defer func() { _ = systemd.Notify(systemd.Stopping) }()
	if cfg.Enroll.On {
		if err := enrolled(ctx, &beside, cc, cfg, o); err != nil {
			return stopped(ctx, err)
		}
	}
	cc.OnConnect = func(s *client.Session) {
		status.connected(s)
		_ = systemd.Notify(systemd.Status("connected as " + s.Device() + " over " + s.Hello().Carrier))
		debug.FreeOSMemory() // the system's CAs and the handshakes leave 3 MB
	}
	cc.OnDisconnect = o.OnDisconnect
	c, err := client.New(cc)
	if err != nil {
		return err
	}
	running.Store(c)
	if err := f.listen(ctx, cfg.Forwards, c.Dial, o.Logger); err != nil {
		return err
	}
	f.serve(ctx, o.Logger)
	r := &reloader{cfg: cfg, o: o, client: c, mux: cc.Mux, services: services, status: status, clock: clock}
	r.note()
	beside.Go(func() { r.run(ctx) })
	beside.Go(func() { r.warnOfExpiry(ctx, cfg) })
	return stopped(ctx, c.Run(ctx))
}

// stopped is err, or nil when ctx is why: asked to stop, done.
func stopped(ctx context.Context, err error) error {
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return nil
	}
	return err
}

func handleSignals(mux *client.Mux, cfg *config.Device, log *slog.Logger) {
	mux.OnSignal(config.SignalWake, awake) // unless the configuration has one
	for name, c := range cfg.Signals {
		mux.OnSignal(name, command{c, log}.handle)
	}
}

// Bootstrap is client.Bootstrap with a device's configuration, whose outer
// policy and roots it does not use. cfg has been validated.
func Bootstrap(ctx context.Context, cfg *config.Device, file string, o Options) (*client.Trust, error) {
	clock := newClock(cfg, time.Now)
	clock.say(o.Logger)
	cfg.SetClock(clock.Now)
	cc, err := sessionConfig(cfg, o, cfg.TLS)
	if err != nil {
		return nil, err
	}
	return client.Bootstrap(ctx, cc, &client.BootstrapOptions{File: file})
}

func clientConfig(cfg *config.Device, o Options) (*client.Config, error) {
	load := cfg.TLS
	if cfg.Enroll.On {
		load = cfg.EnrollTLS
	}
	cc, err := sessionConfig(cfg, o, load)
	if err != nil {
		return nil, err
	}
	outer, err := outerConfig(cfg)
	if err != nil {
		return nil, err
	}
	cc.Outer, cc.Mux = outer, new(client.Mux)
	return cc, nil
}

// outerConfig reads the files of the outer policy.
func outerConfig(cfg *config.Device) (*client.OuterConfig, error) {
	roots, err := cfg.OuterRoots()
	if err != nil {
		return nil, err
	}
	pins, err := cfg.OuterPins()
	if err != nil {
		return nil, err
	}
	policy := map[string]client.OuterPolicy{
		config.PolicyReport: client.OuterAccept, config.PolicyVerify: client.OuterVerify, config.PolicyPin: client.OuterPin,
	}
	return &client.OuterConfig{Policy: policy[cfg.Outer.Policy], Roots: roots, Pins: pins}, nil
}

// awake answers who waits for this device: it stays connected anyway.
func awake(context.Context, client.Signal) (string, error) { return "awake", nil }

// sessionConfig is what every session of the device needs.
func sessionConfig(cfg *config.Device, o Options, load func() (*tls.Config, error)) (*client.Config, error) {
	inner, err := load()
	if err != nil {
		return nil, err
	}
	proxy, err := cfg.ProxyFunc()
	if err != nil {
		return nil, err
	}
	return &client.Config{
		URL: cfg.URL, Carrier: client.Carrier(cfg.Carrier), EarlyHello: cfg.EarlyHello, TLS: inner, Proxy: proxy, Software: o.Software, Logger: o.Logger,
	}, nil
}

// once lives through one session.
func once(ctx context.Context, cc *client.Config, f *forwards, list []config.Forward) error {
	s, err := client.Dial(ctx, cc)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer func() { _ = s.Close() }()
	cc.Logger.Info("session ready", "device", s.Device(), "session", s.ID(), "remote", s.RemoteAddr().String())
	if err := f.listen(ctx, list, s.Dial, cc.Logger); err != nil {
		return err
	}
	f.serve(ctx, cc.Logger)
	select {
	case <-ctx.Done():
		return nil
	case <-s.Drained():
		return client.ErrDraining
	case <-s.Done():
		return s.Err()
	}
}
