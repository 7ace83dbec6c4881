package outer

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
)

// Environment picks the proxy that HTTPS_PROXY, HTTP_PROXY and NO_PROXY name,
// as http.ProxyFromEnvironment does; where the first two say nothing,
// ALL_PROXY. Lower-case names count too.
func Environment(r *http.Request) (*url.URL, error) {
	u, err := http.ProxyFromEnvironment(r)
	if u != nil || err != nil {
		return u, err
	}
	all := env("ALL_PROXY")
	specific := env("HTTPS_PROXY")
	if r.URL.Scheme == "http" || r.URL.Scheme == "ws" {
		specific = env("HTTP_PROXY")
	}
	if all == "" || specific != "" || direct(r.URL, env("NO_PROXY")) {
		return nil, nil
	}
	return ParseProxy(all)
}

// ParseProxy reads a proxy's URL; host:port is an http proxy's.
func ParseProxy(s string) (*url.URL, error) {
	if !strings.Contains(s, "://") {
		s = "http://" + s
	}
	u, err := url.Parse(s)
	if err != nil {
		if ue := (*url.Error)(nil); errors.As(err, &ue) {
			ue.URL = "(proxy)" // it may hold a password
		}
		return nil, err
	}
	return u, nil
}

func env(name string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return os.Getenv(strings.ToLower(name))
}

// direct says whether u needs no proxy: loopback, or named by NO_PROXY, a list
// of hosts, .domains, addresses, CIDR ranges, each with a port or without, or *.
func direct(u *url.URL, list string) bool {
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "wss": "443", "http": "80", "ws": "80"}[u.Scheme]
	}
	ip, _ := netip.ParseAddr(host)
	if host == "localhost" || ip.IsLoopback() {
		return true
	}
	for entry := range strings.SplitSeq(list, ",") {
		entry = strings.ToLower(strings.TrimSpace(entry))
		if h, p, err := net.SplitHostPort(entry); err == nil {
			if p != port {
				continue
			}
			entry = h
		}
		if entry == "*" {
			return true
		}
		entry = strings.TrimPrefix(entry, "*")
		switch prefix, err := netip.ParsePrefix(entry); {
		case entry == "":
		case err == nil:
			if prefix.Contains(ip.Unmap()) {
				return true
			}
		case strings.HasPrefix(entry, "."):
			if strings.HasSuffix(host, entry) {
				return true
			}
		case host == strings.Trim(entry, "[]"), strings.HasSuffix(host, "."+entry):
			return true
		}
	}
	return false
}
