package config

import (
	"reflect"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/atls-ws/atls-ws/internal/proto"
)

// Services map names to targets; see ParseTarget. In a file a target may also
// be a mapping, {proxy: {allow: [...], deny: [...]}} or {exec: [program, ...]},
// where its text would be hard to read.
type Services map[string]string

// serviceMapping is what stands for a target in a file.
type serviceMapping struct {
	Proxy proxyMapping `yaml:"proxy"`
	Exec  []string     `yaml:"exec"`
}

type proxyMapping struct {
	Allow []string `yaml:"allow"`
	Deny  []string `yaml:"deny"`
}

// wrongTarget stands for a mapping that is in error, so that nothing else is
// found wrong with it; a configuration with an error is not used.
const wrongTarget = "unix:///nonexistent"

// target makes the text of a target of a mapping, in place.
func (d *decoder) target(n *yaml.Node, name string) {
	src := n
	if src.Kind == yaml.AliasNode && src.Alias != nil {
		src = src.Alias
	}
	if src.Kind != yaml.MappingNode {
		return
	}
	found := len(d.found)
	d.walk(src, reflect.TypeFor[serviceMapping](), name)
	var m serviceMapping
	if err := src.Decode(&m); err != nil {
		d.loadErrors(err)
	}
	text := wrongTarget
	switch {
	case len(d.found) > found:
	case (len(m.Exec) > 0) == (len(m.Proxy.Allow) > 0):
		d.add(n.Line, name, "want either proxy with a list of what it allows, or exec with a program")
	case len(m.Exec) > 0:
		text = execTarget(m.Exec)
	default:
		list := m.Proxy.Allow
		for _, deny := range m.Proxy.Deny {
			list = append(list, "!"+deny)
		}
		text = "proxy:" + strings.Join(list, ",")
	}
	*n = yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text, Line: n.Line, Column: n.Column}
}

func (c *check) services(services Services, allowExec bool) {
	for _, name := range keys(services) {
		field := "services." + name
		c.name(field, name)
		if name == proto.ServiceSignals {
			c.add(field, "this name is reserved for the signals themselves")
		}
		t, err := ParseTarget(services[name])
		c.addErr(field, err)
		if t.Scheme == "exec" && !allowExec {
			c.add(field, "exec is off: whoever reaches the service runs this program; allow_exec: true (--allow-exec) turns it on")
		}
	}
}
