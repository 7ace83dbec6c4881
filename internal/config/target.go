package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
)

// Target is where the connections to a service go. Network and Address are for
// net.Dial.
type Target struct {
	Scheme  string // tcp, unix or http
	Network string // tcp or unix
	Address string // host:port or a path
}

// ParseTarget reads tcp://host:port, unix:///path or http://host:port.
func ParseTarget(s string) (Target, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return Target{}, fmt.Errorf("target %q: want tcp://host:port, unix:///path or http://host:port", s)
	}
	switch scheme {
	case "tcp", "http":
		if scheme == "http" {
			rest = strings.TrimSuffix(rest, "/")
		}
		if err := checkAddress(rest); err != nil {
			return Target{}, fmt.Errorf("target %q: %w", s, err)
		}
		return Target{Scheme: scheme, Network: "tcp", Address: rest}, nil
	case "unix":
		if !filepath.IsAbs(rest) {
			return Target{}, fmt.Errorf("target %q: want an absolute path, as in unix:///run/app.sock", s)
		}
		return Target{Scheme: scheme, Network: "unix", Address: rest}, nil
	}
	return Target{}, fmt.Errorf("target %q: scheme %q is not tcp, unix or http", s, scheme)
}

// String is the inverse of ParseTarget.
func (t Target) String() string { return t.Scheme + "://" + t.Address }

// checkAddress wants host:port with a host and a port other than 0.
func checkAddress(s string) error {
	host, err := checkListen(s)
	switch {
	case err != nil:
		return err
	case host == "":
		return errors.New("the host is missing")
	case strings.TrimLeft(s[strings.LastIndexByte(s, ':')+1:], "0") == "":
		return errors.New("the port is 0")
	}
	return nil
}

// checkListen is checkAddress with an empty host and port 0 allowed.
func checkListen(s string) (host string, err error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", errors.New("want host:port")
	}
	if strings.ContainsAny(host, "/@?# ") {
		return "", errors.New("want host:port and nothing else")
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "", errors.New("the port is not a number from 0 to 65535")
	}
	return host, nil
}

// checkURL wants an absolute URL with a host and one of schemes. The error never
// quotes the URL, which may hold a password.
func checkURL(s string, schemes ...string) error {
	u, err := url.Parse(s)
	if err != nil {
		return errors.New("not a URL")
	}
	for _, scheme := range schemes {
		if u.Scheme != scheme {
			continue
		}
		if u.Hostname() == "" {
			return errors.New("the host is missing")
		}
		if p := u.Port(); p != "" {
			if _, err := strconv.ParseUint(p, 10, 16); err != nil {
				return errors.New("the port is not a number from 0 to 65535")
			}
		}
		return nil
	}
	return fmt.Errorf("want a URL that begins with %s://", strings.Join(schemes, "://, "))
}
