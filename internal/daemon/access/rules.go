// Package access decides who may do what on a server, by the rules of its
// configuration: which devices may reach which services and routes, and which
// operators may list, signal and dial which devices. Every decision is recorded.
package access

import (
	"fmt"
	"strings"

	"github.com/atls-ws/atls-ws/internal/config"
)

// Device is who a device is to the rules.
type Device struct {
	ID string
	OU []string // organizational units in its certificate's subject
}

// Operator is who an operator is to the rules: config.LocalOperator, or names
// that begin with cert: or token:, of one certificate or of one token.
type Operator []string

// String is the first name, which says who it was.
func (o Operator) String() string {
	if len(o) == 0 {
		return "nobody"
	}
	return o[0]
}

// Local is the owner of the admin socket.
var Local = Operator{config.LocalOperator}

// Decision is what the rules say, and which of them.
type Decision struct {
	Allowed bool
	Rule    string
}

// rules are one version of the configuration's rules. They do not change.
type rules struct {
	config.Authorization
	shared map[string][]string // the groups that signals go to as well
	place  func(field string) string
}

func newRules(cfg *config.Server) *rules { return &rules{cfg.Authorization, cfg.Groups, cfg.Place} }

// name names a rule, with its place in the file.
func (r *rules) name(field string) string {
	if place := r.place(field); place != "" {
		return field + " (" + place + ")"
	}
	return field
}

const (
	devicesField   = "authorization.devices"
	operatorsField = "authorization.operators"
)

// device decides whether a device may reach what matches picks out of a rule.
func (r *rules) device(d Device, matches func(config.DeviceRule) bool) Decision {
	if r.Devices == nil {
		return Decision{true, "no " + devicesField + ": every device may"}
	}
	for i, rule := range r.Devices {
		if r.is(d, rule.Who) && matches(rule) {
			return Decision{true, r.name(fmt.Sprintf("%s[%d]", devicesField, i))}
		}
	}
	return Decision{false, "no rule of " + r.name(devicesField) + " allows it"}
}

// operator decides whether an operator has a scope for a device and a service.
// An empty device asks whether there is any; an empty service is none.
func (r *rules) operator(o Operator, scope, device, service string) Decision {
	if r.Operators == nil {
		return Decision{true, "no " + operatorsField + ": whoever is let in may"}
	}
	for i, rule := range r.Operators {
		switch {
		case !anyOf(rule.Who, o...), !anyOf(rule.May, scope):
		case device != "" && !anyOf(rule.Devices, device):
		case service != "" && len(rule.Services) > 0 && !anyOf(rule.Services, service):
		default:
			return Decision{true, r.name(fmt.Sprintf("%s[%d]", operatorsField, i))}
		}
	}
	return Decision{false, "no rule of " + r.name(operatorsField) + " allows it"}
}

// is says whether a rule's list of devices and groups has the device.
func (r *rules) is(d Device, who []string) bool {
	for _, w := range who {
		name, group := strings.CutPrefix(w, "@")
		if !group && Match(w, d.ID) {
			return true
		}
		if g := r.Groups[name]; group && (anyOf(g.Devices, d.ID) || anyOf(g.OU, d.OU...) || anyOf(r.shared[name], d.ID)) {
			return true
		}
	}
	return false
}

// anyOf says whether one of the patterns matches one of the names.
func anyOf(patterns []string, names ...string) bool {
	for _, p := range patterns {
		for _, n := range names {
			if Match(p, n) {
				return true
			}
		}
	}
	return false
}

// Match says whether a name is of a pattern, in which a * stands for any text.
func Match(pattern, name string) bool {
	first, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == name
	}
	name, ok := strings.CutPrefix(name, first)
	if !ok {
		return false
	}
	for {
		part, more, star := strings.Cut(rest, "*")
		if !star {
			return strings.HasSuffix(name, rest)
		}
		i := strings.Index(name, part) // the first place is as good as any
		if i < 0 {
			return false
		}
		name, rest = name[i+len(part):], more
	}
}
