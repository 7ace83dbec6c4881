package web

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"
)

// PageConfig says how a proxy shows the web pages of devices.
type PageConfig struct {
	// Dial connects to the web service of the device that Device has named.
	// Required.
	Dial func(ctx context.Context, device string) (net.Conn, error)
	// Device names the device that a request is for. Required.
	Device func(*http.Request) string
	// Host is sent to the device in place of the request's; empty: what the
	// browser sent.
	Host string
	// Cookie is a cookie of the proxy's own: the device neither gets nor sets it.
	Cookie string
	// Explain gives the status and the text of an error of Dial; nil: 502 and
	// the error.
	Explain func(err error) (status int, text string)
	// Logger is required.
	Logger *slog.Logger
}

// Page is a proxy to the web pages of devices. Its owner closes it.
type Page struct {
	cfg       PageConfig
	transport *http.Transport
	proxy     *httputil.ReverseProxy
	guarded   http.Handler
}

// NewPage makes the proxy; it does no I/O.
func NewPage(cfg PageConfig) *Page {
	p := &Page{cfg: cfg}
	p.transport = &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			host, _, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			device, err := url.PathUnescape(host)
			if err != nil {
				return nil, err
			}
			conn, err := cfg.Dial(ctx, device)
			if err != nil {
				return nil, &dialError{err}
			}
			return conn, nil
		},
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     30 * time.Second,
		DisableCompression:  true,
	}
	p.proxy = &httputil.ReverseProxy{
		Transport:      p.transport,
		FlushInterval:  -1,
		ErrorLog:       slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug),
		Rewrite:        p.rewrite,
		ModifyResponse: p.modify,
		ErrorHandler:   p.fail,
	}
	// Pages of one device must not use the operator's access to another's, nor
	// any page in the browser a device's.
	p.guarded = http.NewCrossOriginProtection().Handler(p.proxy)
	return p
}

// Close ends connections that are idle.
func (p *Page) Close() { p.transport.CloseIdleConnections() }

func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if embedded(r) {
		http.Error(w, "a page of another origin uses this one", http.StatusForbidden)
		return
	}
	if r.Header.Get("Upgrade") != "" && !sameOrigin(r) {
		http.Error(w, "a WebSocket of another origin", http.StatusForbidden)
		return
	}
	p.guarded.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), inKey{}, r)))
}

// embedded says whether a page of another origin makes its browser ask for this: as
// a frame, a picture, by a script; all but a link that is followed. A GET changes
// nothing where the web is in order, and devices' pages often are not.
func embedded(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "same-site", "cross-site":
		return r.Header.Get("Sec-Fetch-Mode") != "navigate" || r.Header.Get("Sec-Fetch-Dest") != "document"
	}
	return false
}

// sameOrigin is what cross-origin protection, which trusts a GET, lacks.
func sameOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true // no browser
	}
	u, err := url.Parse(origin)
	return err == nil && strings.EqualFold(u.Host, r.Host)
}

func (p *Page) rewrite(r *httputil.ProxyRequest) {
	in, out := r.In, r.Out
	// The device's name is only the key of the transport's connections: any text
	// goes, for what the device sees is Host.
	out.URL.Scheme, out.URL.Host = "http", net.JoinHostPort(url.PathEscape(p.cfg.Device(in)), "80")
	r.SetXForwarded()
	out.Host = in.Host
	if p.cfg.Host != "" {
		out.Host = p.cfg.Host
		for _, name := range []string{"Origin", "Referer"} {
			if u, err := url.Parse(out.Header.Get(name)); err == nil && strings.EqualFold(u.Host, in.Host) {
				u.Scheme, u.Host = "http", p.cfg.Host
				out.Header.Set(name, u.String())
			}
		}
	}
	if p.cfg.Cookie != "" {
		out.Header.Del("Authorization")
		if _, err := in.Cookie(p.cfg.Cookie); err == nil {
			out.Header.Del("Cookie")
			for _, c := range in.Cookies() {
				if c.Name != p.cfg.Cookie {
					out.AddCookie(c)
				}
			}
		}
	}
}

func (p *Page) modify(resp *http.Response) error {
	in, _ := resp.Request.Context().Value(inKey{}).(*http.Request)
	if p.cfg.Host != "" && in != nil {
		if u, err := url.Parse(resp.Header.Get("Location")); err == nil && strings.EqualFold(u.Host, p.cfg.Host) {
			u.Scheme, u.Host = scheme(in), in.Host
			resp.Header.Set("Location", u.String())
		}
	}
	lines := resp.Header.Values("Set-Cookie")
	resp.Header.Del("Set-Cookie")
	for _, line := range lines {
		c, err := http.ParseSetCookie(line)
		if err != nil || p.cfg.Cookie != "" && c.Name == p.cfg.Cookie {
			continue
		}
		if c.Domain != "" {
			c.Domain = "" // it is for this device's pages alone
			line = c.String()
		}
		resp.Header.Add("Set-Cookie", line)
	}
	return nil
}

// inKey finds the browser's request in the context of what was made of it.
type inKey struct{}

func scheme(r *http.Request) string {
	if r.TLS != nil {
		return "https"
	}
	return "http"
}

// dialError is an error of PageConfig.Dial, to tell it from what the device's
// web server does.
type dialError struct{ error }

func (e *dialError) Unwrap() error { return e.error }

func (p *Page) fail(w http.ResponseWriter, r *http.Request, err error) {
	status, text := http.StatusBadGateway, "the device's web server breaks off: "+err.Error()
	if dial := (*dialError)(nil); errors.As(err, &dial) {
		text = dial.Error()
		if p.cfg.Explain != nil {
			status, text = p.cfg.Explain(dial.error)
		}
	}
	if r.Context().Err() == nil {
		p.cfg.Logger.Info("page cannot be shown", "device", p.cfg.Device(r), "err", err)
	}
	http.Error(w, fmt.Sprintf("atls-ws: %s", text), status)
}
