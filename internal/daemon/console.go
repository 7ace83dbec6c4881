package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/daemon/access"
	"github.com/atls-ws/atls-ws/internal/web"
	"github.com/atls-ws/atls-ws/server"
)

// strangerTimeout is for the body of a request of nobody who is known.
const strangerTimeout = 5 * time.Second

// metricsPath is where Prometheus comes with a token.
const metricsPath = "/metrics"

// console shows operators the web pages of devices, at https://DEVICE.DOMAIN/,
// and has the fleet's page, the admin API and the metrics at https://DOMAIN/.
type console struct {
	domain   string
	service  string
	guard    *access.Guard
	logins   *logins
	page     *web.Page
	api      http.Handler
	fleet    http.Handler
	metrics  http.Handler
	patience time.Duration // with the bodies of strangers
	http     *http.Server
	listener net.Listener
}

// openConsole listens when the configuration has a console.
func (d *daemon) openConsole(ctx context.Context, cfg *config.Server, api http.Handler) error {
	if cfg.Console == (config.Console{}) {
		return nil
	}
	conf, err := following(&d.reloader.console), error(nil)
	c := &console{domain: strings.ToLower(cfg.Console.Domain), service: cfg.Console.Service, guard: d.guard, api: api, fleet: d.pages, metrics: d.metrics.handler(d.log), patience: strangerTimeout}
	if c.service == "" {
		c.service = config.DefaultWebService
	}
	if c.logins, err = newLogins(cfg.Console.Tokens, d.guard); err != nil {
		return &StartError{fmt.Errorf("console tokens: %w", err), access.NextTokens}
	}
	c.page = web.NewPage(web.PageConfig{
		Dial: func(ctx context.Context, device string) (net.Conn, error) {
			conn, err := d.reach.dial(ctx, device, c.service, 0)
			if err != nil {
				return nil, err // not a nil *reached in a net.Conn
			}
			return conn, nil
		},
		Device: c.device, Cookie: loginCookie, Explain: c.explain, Logger: d.log,
	})
	c.http = d.httpServer(c)
	l, err := d.passed("console", func() (net.Listener, error) { return listen(ctx, cfg.Console.Listen) })
	if err != nil {
		c.page.Close()
		return err
	}
	c.listener = tls.NewListener(l, conf)
	d.console = c
	d.log.Info("console", "addr", l.Addr().String(), "domain", c.domain)
	return nil
}

func (c *console) close() {
	_ = c.http.Close()
	_ = c.listener.Close()
	c.page.Close()
}

// device is what a request's Host names, empty for the domain itself.
func (c *console) device(r *http.Request) string {
	device, _ := c.split(r)
	return device
}

func (c *console) split(r *http.Request) (device string, ok bool) {
	host := strings.ToLower(r.Host)
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	rest, ok := strings.CutSuffix(host, c.domain)
	if device, dot := strings.CutSuffix(rest, "."); dot && ok {
		return device, device != ""
	}
	return "", ok && rest == ""
}

func (c *console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	device, ok := c.split(r)
	if !ok {
		c.boundBody(w)
		c.guard.Refused(r.RemoteAddr, access.OtherHost)
		http.Error(w, "this host has no page here: want https://DEVICE."+c.domain+"/", http.StatusMisdirectedRequest)
		return
	}
	if r.URL.Path == loginPath {
		c.boundBody(w)
		c.logins.serve(w, r)
		return
	}
	who := c.operator(r)
	if who == nil {
		c.boundBody(w)
		c.logins.ask(w, r, device != "" || !strings.HasPrefix(r.URL.Path, "/v1/") && r.URL.Path != metricsPath)
		return
	}
	if device == "" {
		if err := http.NewCrossOriginProtection().Check(r); err != nil { // of a page elsewhere, in an operator's browser
			c.guard.Refused(r.RemoteAddr, access.OtherSite)
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		if strings.HasPrefix(r.URL.Path, "/v1/") {
			c.api.ServeHTTP(w, withOperator(r, who))
			return
		}
		if r.URL.Path == metricsPath {
			if !c.guard.Sees(who, "") {
				http.Error(w, "the server's rules do not let "+who.String()+" list devices", http.StatusForbidden)
				return
			}
			c.metrics.ServeHTTP(w, r)
			return
		}
		c.fleet.ServeHTTP(w, withOperator(r, who))
		return
	}
	if !c.guard.Operator(who, r.RemoteAddr, config.ScopeDial, device, c.service).Allowed {
		http.Error(w, fmt.Sprintf("the server's rules do not let %s reach the service %s of the device %s", who, c.service, device), http.StatusForbidden)
		return
	}
	c.page.ServeHTTP(w, r)
}

// boundBody ends the wait for what a stranger withholds of a body: net/http has no
// bound for it. Operators may take their time.
func (c *console) boundBody(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(c.patience))
}

// operator is who a request comes from; nil: nobody who is known.
func (c *console) operator(r *http.Request) access.Operator {
	// A certificate that TLS has verified; without clients_ca none is asked for.
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		cert := r.TLS.VerifiedChains[0][0]
		var names access.Operator
		add := func(name string) {
			if name != "" {
				names = append(names, "cert:"+name)
			}
		}
		add(cert.Subject.CommonName)
		for _, list := range [][]string{cert.EmailAddresses, cert.DNSNames} {
			for _, name := range list {
				add(name)
			}
		}
		for _, u := range cert.URIs {
			add(u.String())
		}
		if len(names) > 0 {
			return names
		}
	}
	if name, ok := c.logins.name(r); ok {
		return access.Operator{"token:" + name}
	}
	return nil
}

// explain is about a device that cannot be reached.
func (c *console) explain(err error) (status int, text string) {
	refused := (*server.RefusedError)(nil)
	switch {
	case errors.Is(err, server.ErrNotConnected):
		return http.StatusServiceUnavailable, "the device is not connected"
	case errors.As(err, &refused) && refused.Code == server.NotFound:
		return http.StatusNotFound, "the device has no service " + c.service
	case errors.As(err, &refused) && refused.Code == server.NotAllowed:
		return http.StatusForbidden, "the device does not allow it: " + refused.Text
	case errors.As(err, &refused):
		return http.StatusServiceUnavailable, "the device refuses: " + refused.Error()
	case errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout, "the device does not answer"
	}
	return http.StatusBadGateway, "the device cannot be reached: " + err.Error()
}
