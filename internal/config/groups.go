package config

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/atls-ws/atls-ws/internal/proto"
)

// Groups are names for several devices: pushes go to them, and rules name them
// as @group.
type Groups map[string]Group

// Group says which devices a group has, beside those in whose certificate an
// organizational unit (subject OU) has the group's own name. In a file it may
// also be a list, of Devices alone. A * stands for any text.
type Group struct {
	Devices []string `yaml:"devices"` // ids
	OU      []string `yaml:"ou"`
}

// Has says whether a device with these organizational units is in the group of
// that name.
func (g Groups) Has(name, device string, ou []string) bool {
	group := g[name]
	return slices.Contains(ou, name) || AnyMatch(group.Devices, device) || AnyMatch(group.OU, ou...)
}

// Of gives the groups of a device, by name: those that are configured and those
// that its certificate names.
func (g Groups) Of(device string, ou []string) []string {
	all := []string{}
	for name := range g {
		if g.Has(name, device, ou) {
			all = append(all, name)
		}
	}
	for _, name := range ou {
		if proto.CheckName(name) == nil && !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all
}

// AnyMatch says whether one of the patterns matches one of the names.
func AnyMatch(patterns []string, names ...string) bool {
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

// group makes the mapping that a list stands for, in place.
func (d *decoder) group(n *yaml.Node) {
	list := n
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		list = n.Alias
	}
	if list.Kind != yaml.SequenceNode {
		return
	}
	items := *list
	key := yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: "devices", Line: n.Line, Column: n.Column}
	*n = yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Content: []*yaml.Node{&key, &items}, Line: n.Line, Column: n.Column}
}

func (c *check) groups(groups Groups) {
	for _, name := range keys(groups) {
		field := "groups." + name
		c.name(field, name)
		for _, device := range groups[name].Devices {
			if proto.CheckName(device) != nil {
				c.add(field, quoted(device)+"is not a device's id or a pattern such as pump-*")
			}
		}
		if slices.Contains(groups[name].OU, "") {
			c.add(field, "an organizational unit is empty")
		}
	}
}
