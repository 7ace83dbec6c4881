package config

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Destinations say where a proxy may connect to: an allow-list from which
// single places can be taken out again. The zero value allows nothing.
type Destinations []destination

// destination is HOST:PORTS. HOST is an address, a network such as
// 10.0.0.0/8, a name, *.domain, or *; PORTS is a number, a range, or *.
type destination struct {
	text     string
	deny     bool
	nets     []netip.Prefix // of an address or a network
	name     string         // or a name, in lower case
	from, to uint16
}

// ParseDestinations reads an allow-list. An entry that begins with ! is taken
// out of what the others allow, wherever it stands.
func ParseDestinations(list []string) (Destinations, error) {
	var d Destinations
	for _, text := range list {
		one, err := parseDestination(strings.TrimSpace(text))
		if err != nil {
			return nil, fmt.Errorf("destination %q: %w", text, err)
		}
		d = append(d, one)
	}
	if len(d) == 0 {
		return nil, errors.New("name the destinations that are allowed, as in 10.0.0.0/8:443 or *.corp:*")
	}
	return d, nil
}

func parseDestination(text string) (destination, error) {
	d := destination{text: text, to: 65535}
	text, d.deny = strings.CutPrefix(text, "!")
	i := strings.LastIndexByte(text, ':')
	if i <= 0 {
		return d, errors.New("want HOST:PORT, as in 10.0.0.0/8:443, db.corp:5432 or *.corp:*")
	}
	host, ports := strings.ToLower(strings.Trim(text[:i], "[]")), text[i+1:]
	if ports != "*" {
		low, high, ranged := strings.Cut(ports, "-")
		if !ranged {
			high = low
		}
		from, err1 := strconv.ParseUint(low, 10, 16)
		to, err2 := strconv.ParseUint(high, 10, 16)
		if err1 != nil || err2 != nil || from == 0 || from > to {
			return d, errors.New("the port is not a number, a range such as 8000-8099, or *")
		}
		d.from, d.to = uint16(from), uint16(to)
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		d.nets = []netip.Prefix{netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen())}
	} else if strings.Contains(host, "/") {
		p, err := netip.ParsePrefix(host)
		if err != nil {
			return d, errors.New("the network is not one such as 10.0.0.0/8")
		}
		d.nets = []netip.Prefix{p.Masked()}
	} else if host == "localhost" {
		d.nets = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	} else if star := strings.TrimPrefix(host, "*"); star == "" || !strings.ContainsAny(star, "*/@?# ") && (star == host || star[0] == '.') {
		d.name = strings.TrimSuffix(host, ".")
	} else {
		return d, errors.New("the host is not an address, a network, a name, *.domain or *")
	}
	return d, nil
}

// String is the list, between commas.
func (ds Destinations) String() string {
	texts := make([]string, len(ds))
	for i, d := range ds {
		texts[i] = d.text
	}
	return strings.Join(texts, ",")
}

// Check says whether a proxy may connect to addr for a client that asked for
// host, and if not, why. host is a name that addr was resolved from, or an
// address. A rule for a name does not open addresses of this machine itself,
// of the link, or of a group: whoever runs the name's DNS could point it there.
func (ds Destinations) Check(host string, addr netip.AddrPort) error {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	ip := addr.Addr().Unmap().WithZone("")
	allowed, named := false, false
	for _, d := range ds {
		if addr.Port() < d.from || addr.Port() > d.to {
			continue
		}
		byAddress := d.hasAddress(ip)
		byName := d.hasName(host)
		switch {
		case d.deny && (byAddress || byName):
			return fmt.Errorf("%s is denied by the rule %s", addr, d.text)
		case byAddress:
			allowed = true
		case byName && !special(ip):
			allowed = true
		case byName:
			named = true
		}
	}
	switch {
	case allowed:
		return nil
	case named:
		return fmt.Errorf("%s leads to %s, which only a rule for that address can allow", host, ip)
	}
	return fmt.Errorf("no rule allows %s (%s)", host, addr)
}

// Named says whether any rule could allow host, before it is resolved: a name
// that no rule can match is not even asked for, so that nobody's DNS hears it.
func (ds Destinations) Named(host string, port uint16) error {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	for _, d := range ds {
		if !d.deny && port >= d.from && port <= d.to && (len(d.nets) > 0 || d.hasName(host)) {
			return nil
		}
	}
	return fmt.Errorf("no rule allows %s:%d", host, port)
}

func (d destination) hasAddress(ip netip.Addr) bool {
	for _, n := range d.nets {
		if n.Contains(ip) {
			return true
		}
	}
	return false
}

func (d destination) hasName(host string) bool {
	if suffix, ok := strings.CutPrefix(d.name, "*"); ok {
		return strings.HasSuffix(host, suffix)
	}
	return d.name != "" && host == d.name
}

func special(ip netip.Addr) bool {
	return ip.IsLoopback() || ip.IsUnspecified() || ip.IsLinkLocalUnicast() || ip.IsMulticast() ||
		ip.Is4() && ip.As4()[0] == 0
}
