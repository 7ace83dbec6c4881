package config

import (
	"errors"
	"maps"
	"net"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/atls-ws/atls-ws/internal/proto"
)

// check collects the problems of one Validate.
type check struct {
	src   source
	found Problems
}

func (c *check) err() error { return c.found.err() }

func (c *check) add(field, text string) {
	c.found = append(c.found, Problem{File: c.src.file, Line: c.src.line(field), Field: field, Text: text})
}

func (c *check) addErr(field string, err error) {
	if err != nil {
		c.add(field, err.Error())
	}
}

func (c *check) required(field, value string) bool {
	if value == "" {
		c.add(field, "missing")
	}
	return value != ""
}

func (c *check) notNegative(field string, n int64) {
	if n < 0 {
		c.add(field, "must not be negative")
	}
}

// minUnread is session.MinUnread.
const minUnread = 4 << 20

func (c *check) unread(n int) {
	c.notNegative("limits.unread", int64(n))
	if n > 0 && n < minUnread {
		c.add("limits.unread", "must be at least 4194304 bytes, for 16 windows of 256 KiB, or 0 for the default")
	}
}

func (c *check) oneOf(field, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		c.add(field, quoted(value)+"is not one of "+strings.Join(allowed, ", "))
	}
}

func (c *check) url(field, value string, schemes ...string) {
	if c.required(field, value) {
		c.addErr(field, checkURL(value, schemes...))
	}
}

func (c *check) address(field, value string) {
	if c.required(field, value) {
		_, err := checkListen(value)
		c.addErr(field, err)
	}
}

// metrics is an address that only this machine can reach: nobody is asked who he is.
func (c *check) metrics(value string) {
	if value == "" {
		return
	}
	host, err := checkListen(value)
	if ip := net.ParseIP(host); err == nil && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		err = errors.New(quoted(value) + "is not a loopback address: from elsewhere, scrape /metrics of the console with a token")
	}
	c.addErr("metrics", err)
}

func (c *check) path(field, value string) {
	if !c.required(field, value) {
		return
	}
	// A trailing slash, a query or a pattern would never match a request.
	if value[0] != '/' || path.Clean(value) != value || strings.ContainsAny(value, "?#{} %") {
		c.add(field, quoted(value)+"is not a plain absolute path such as "+DefaultPath)
	}
}

func (c *check) origin(field, value string) {
	u, err := url.Parse(value)
	if err != nil || u.Scheme == "" || u.Host == "" || u.Scheme+"://"+u.Host != value {
		c.add(field, quoted(value)+"is not an origin such as https://console.example.com")
	}
}

func (c *check) name(field, name string) {
	c.addErr(field, proto.CheckName(name))
}

func (c *check) log(l Log) {
	c.oneOf("log.level", l.Level, "debug", "info", "warn", "error")
	c.oneOf("log.format", l.Format, "text", "json")
}

func keys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func quoted(s string) string { return `"` + s + `" ` }
