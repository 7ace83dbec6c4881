//go:build !device

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/web"
)

func httpCommand() *cli.Command {
	return &cli.Command{
		Name:      "http",
		Usage:     "show a device's web page at a local address",
		ArgsUsage: "DEVICE [SERVICE]",
		Description: "The URL is printed; SERVICE is \"web\" unless it is named. The device gets the Host that the browser\n" +
			"sends, or that of --host, with redirects, Origin and Referer to match. Pages of other origins in the same\n" +
			"browser cannot use it. It goes on until it is interrupted.",
		BashComplete: completeDevices,
		Flags: []cli.Flag{
			adminFlag(),
			&cli.StringFlag{Name: "listen", Value: "127.0.0.1:0", Usage: "`HOST:PORT` of the local address"},
			&cli.StringFlag{Name: "host", Usage: "`NAME` that the device's web server goes by"},
		},
		Action: showPage,
	}
}

func showPage(c *cli.Context) error {
	if err := wantArgs(c, 1, 2); err != nil {
		return err
	}
	device, service := c.Args().Get(0), c.Args().Get(1)
	if service == "" {
		service = config.DefaultWebService
	}
	network, address, err := config.ParseListen(c.String("listen"))
	if err != nil || network != "tcp" {
		return usagef(c, "--listen %q: want host:port or :port", c.String("listen"))
	}
	log := operatorLog(c.App.ErrWriter)
	dial := toDevice(c, device, service)
	page := web.NewPage(web.PageConfig{
		Dial:   func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) },
		Device: func(*http.Request) string { return device },
		Host:   c.String("host"),
		Explain: func(err error) (int, string) {
			status := http.StatusBadGateway
			if outcome := (*admin.OutcomeError)(nil); errors.As(err, &outcome) && outcome.Code == "not allowed" {
				status = http.StatusForbidden
			}
			message, next := words(err)
			return status, message + "\nnext: " + next
		},
		Logger: log,
	})
	defer page.Close()
	l, err := new(net.ListenConfig).Listen(c.Context, "tcp", address)
	if err != nil {
		return withNext(err, "give another address to --listen")
	}
	srv := &http.Server{Handler: ownHost(l.Addr(), page), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	defer context.AfterFunc(c.Context, func() { _ = srv.Close() })()
	if _, err := fmt.Fprintf(c.App.Writer, "http://%s/\n", l.Addr()); err != nil {
		_ = l.Close()
		return err
	}
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// ownHost lets a loopback address be asked for by its own names only: the DNS
// of a foreign page could lead its name here.
func ownHost(addr net.Addr, h http.Handler) http.Handler {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok || !tcp.IP.IsLoopback() {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		if ip := net.ParseIP(strings.Trim(host, "[]")); (ip == nil || !ip.IsLoopback()) && !strings.EqualFold(host, "localhost") {
			http.Error(w, "this address is not for the host "+host, http.StatusMisdirectedRequest)
			return
		}
		h.ServeHTTP(w, r)
	})
}
