package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
)

// Target is where the connections to a service go.
type Target struct {
	Scheme  string       // tcp, http, unix, udp, exec or proxy
	Network string       // tcp, unix or udp, for net.Dial; empty for exec and proxy
	Address string       // host:port or a path, for net.Dial
	Command []string     // of exec: the program and its arguments
	Allow   Destinations // of proxy
}

// wantTarget lists the forms of a target, for errors.
const wantTarget = "tcp://host:port, http://host:port, unix:///path, udp://host:port, exec:PROGRAM ARGUMENTS or proxy:DESTINATIONS"

// ParseTarget reads tcp://host:port, http://host:port, unix:///path,
// udp://host:port, exec: and a program with its arguments (between spaces, or
// as a JSON array), or proxy: and what ParseDestinations reads.
func ParseTarget(s string) (Target, error) {
	scheme, rest, ok := strings.Cut(s, ":")
	if !ok {
		return Target{}, fmt.Errorf("target %q: want %s", s, wantTarget)
	}
	fail := func(err error) (Target, error) { return Target{}, fmt.Errorf("target %q: %w", s, err) }
	address, slashes := strings.CutPrefix(rest, "//")
	switch scheme {
	case "exec":
		command, err := parseCommand(rest)
		if err != nil {
			return fail(err)
		}
		return Target{Scheme: scheme, Command: command}, nil
	case "proxy":
		allow, err := ParseDestinations(strings.Split(address, ","))
		if err != nil {
			return fail(err)
		}
		return Target{Scheme: scheme, Allow: allow}, nil
	}
	switch {
	case !slashes:
		return Target{}, fmt.Errorf("target %q: want %s", s, wantTarget)
	case scheme == "tcp", scheme == "http", scheme == "udp":
		network := "tcp"
		if scheme == "udp" {
			network = "udp"
		}
		if scheme == "http" {
			address = strings.TrimSuffix(address, "/")
		}
		if err := checkAddress(address); err != nil {
			return fail(err)
		}
		return Target{Scheme: scheme, Network: network, Address: address}, nil
	case scheme == "unix":
		if !filepath.IsAbs(address) {
			return fail(errors.New("want an absolute path, as in unix:///run/app.sock"))
		}
		return Target{Scheme: scheme, Network: "unix", Address: address}, nil
	}
	return fail(fmt.Errorf("scheme %q is not tcp, http, unix, udp, exec or proxy", scheme))
}

// String is the inverse of ParseTarget.
func (t Target) String() string {
	switch t.Scheme {
	case "exec":
		return execTarget(t.Command)
	case "proxy":
		return "proxy:" + t.Allow.String()
	}
	return t.Scheme + "://" + t.Address
}

// execTarget writes a command as a target: the JSON keeps its arguments apart.
func execTarget(command []string) string {
	text, _ := json.Marshal(command) // of strings: no error
	return "exec:" + string(text)
}

func parseCommand(s string) (command []string, err error) {
	if strings.HasPrefix(s, "[") {
		if err := json.Unmarshal([]byte(s), &command); err != nil {
			return nil, errors.New(`want a JSON array of texts, as in exec:["sh","-c","date"]`)
		}
	} else {
		command = strings.Fields(s)
	}
	if len(command) == 0 || command[0] == "" {
		return nil, errors.New("name a program, as in exec:/usr/bin/top -b")
	}
	return command, nil
}

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

// ParseListen reads where a local port listens: host:port, :port for this
// machine alone, *:port for every address, udp: before one of these, or
// unix:/path. Network and address are for net.Listen.
func ParseListen(s string) (network, address string, err error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		path = strings.TrimPrefix(path, "//")
		if path == "" {
			return "", "", errors.New("the path is missing, as in unix:/run/app.sock")
		}
		return "unix", path, nil
	}
	network, address = "tcp", s
	if rest, ok := strings.CutPrefix(s, "udp:"); ok {
		network, address = "udp", strings.TrimPrefix(rest, "//")
	}
	host, err := checkListen(address)
	if err != nil {
		return "", "", fmt.Errorf("%q: %w; or :port, *:port, udp:host:port, unix:/path", s, err)
	}
	port := address[strings.LastIndexByte(address, ':')+1:]
	switch host {
	case "":
		host = "127.0.0.1" // whoever can connect needs no further permission
	case "*":
		host = ""
	}
	return network, net.JoinHostPort(host, port), nil
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
