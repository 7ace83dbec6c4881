package config

import (
	"fmt"
	"path/filepath"
	"strings"
)

// DefaultWebService is the device's service that shows its web page.
const DefaultWebService = "web"

// What operators may do.
const (
	ScopeList   = "list"   // see which devices are connected
	ScopeSignal = "signal" // send signals
	ScopeDial   = "dial"   // connect to services of devices
)

// LocalOperator is whoever can open the unix socket of the admin API: its owner.
const LocalOperator = "local"

// Forward leads a local port of a device to a service of the server.
type Forward struct {
	// Listen is where the port listens; see ParseListen. Required.
	Listen string `yaml:"listen"`
	// Service is the server's. Required.
	Service string `yaml:"service"`
}

// Listener leads a local port of the server to a service of a device.
type Listener struct {
	Listen  string `yaml:"listen"`
	Device  string `yaml:"device"`
	Service string `yaml:"service"`
}

// Route leads a device's requests to the service http to an origin.
type Route struct {
	// Name is for the rules of Authorization; empty: Host and Path.
	Name string `yaml:"name"`
	// Host is what the request's Host must be; empty: anything.
	Host string `yaml:"host"`
	// Path is the beginning of the request's path; the longest wins.
	Path string `yaml:"path"`
	// To is the URL of the origin, http or https. Required.
	To string `yaml:"to"`
}

// ID names the route.
func (r Route) ID() string {
	if r.Name != "" {
		return r.Name
	}
	return r.Host + r.Path
}

// Console is a listener on which operators reach the web pages of devices, each
// at https://DEVICE.DOMAIN/. Empty: there is none.
type Console struct {
	Listen string `yaml:"listen"`
	// Cert and Key are the PEM files of the listener's certificate, for
	// *.DOMAIN. Required.
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	// Domain is the parent of the devices' names. Required.
	Domain string `yaml:"domain"`
	// Service of the device that is shown; empty: DefaultWebService.
	Service string `yaml:"service"`
	// ClientsCA is the PEM file of the authorities that vouch for operators,
	// Tokens a file with a name and a token on each line. One of them is required.
	ClientsCA string `yaml:"clients_ca"`
	Tokens    string `yaml:"tokens"`
}

// Authorization says who may do what. A list of rules that is there denies what
// none of its rules allows; one that is not there allows everything.
type Authorization struct {
	// Groups of devices, which rules name as @group, beside the Groups of Server.
	Groups map[string]Group `yaml:"groups"`
	// Devices are the rules for what devices may reach on the server.
	Devices []DeviceRule `yaml:"devices"`
	// Operators are the rules for what operators may do with devices.
	Operators []OperatorRule `yaml:"operators"`
}

// Group is a group of devices: by id, or by an organizational unit in the
// subject of their certificate. A * stands for any text.
type Group struct {
	Devices []string `yaml:"devices"`
	OU      []string `yaml:"ou"`
}

// DeviceRule lets devices reach services and routes. In each list a * stands for
// any text.
type DeviceRule struct {
	Who      []string `yaml:"who"` // ids of devices and @groups
	Services []string `yaml:"services"`
	Routes   []string `yaml:"routes"` // their names
}

// OperatorRule lets operators do something with devices. In each list, other
// than May, a * stands for any text.
type OperatorRule struct {
	Who      []string `yaml:"who"` // LocalOperator, cert:NAME and token:NAME
	May      []string `yaml:"may"` // scopes
	Devices  []string `yaml:"devices"`
	Services []string `yaml:"services"` // that may be dialed; empty: all
}

// ValidateAuthorization is Validate for Authorization alone.
func (s *Server) ValidateAuthorization() error {
	c := check{src: s.src}
	c.authorization(s.Authorization, s.Groups)
	return c.err()
}

// Place says where a field of the file stands, as file:line; empty when it does
// not come from a file.
func (s *Server) Place(field string) string {
	if line := s.src.line(field); line > 0 {
		return fmt.Sprintf("%s:%d", filepath.Base(s.src.file), line)
	}
	return ""
}

func (c *check) listen(field, value string) {
	if c.required(field, value) {
		_, _, err := ParseListen(value)
		c.addErr(field, err)
	}
}

func (c *check) forwards(forwards []Forward) {
	for i, f := range forwards {
		field := fmt.Sprintf("forwards[%d]", i)
		c.listen(field+".listen", f.Listen)
		if c.required(field+".service", f.Service) {
			c.name(field+".service", f.Service)
		}
	}
}

func (c *check) listeners(listeners []Listener) {
	for i, l := range listeners {
		field := fmt.Sprintf("listeners[%d]", i)
		c.listen(field+".listen", l.Listen)
		if c.required(field+".device", l.Device) {
			c.name(field+".device", l.Device)
		}
		if c.required(field+".service", l.Service) {
			c.name(field+".service", l.Service)
		}
	}
}

func (c *check) routes(routes []Route, services Services) {
	if _, taken := services["http"]; taken && len(routes) > 0 {
		c.add("services.http", "routes answer the service http; name this one otherwise, or give it a route")
	}
	seen := map[string]bool{}
	for i, r := range routes {
		field := fmt.Sprintf("routes[%d]", i)
		if strings.ContainsAny(r.Host, "/:@ ") {
			c.add(field+".host", quoted(r.Host)+"is not a host name without a port")
		}
		if r.Path != "" && (r.Path[0] != '/' || strings.ContainsAny(r.Path, "?#{} %")) {
			c.add(field+".path", quoted(r.Path)+"is not the beginning of a path, such as /api/")
		}
		c.url(field+".to", r.To, "http", "https")
		if key := strings.ToLower(r.Host) + "|" + r.Path; seen[key] {
			c.add(field, "an earlier route has the same host and path")
		} else {
			seen[key] = true
		}
	}
}

func (c *check) console(k Console) {
	if k == (Console{}) {
		return
	}
	c.address("console.listen", k.Listen)
	c.required("console.cert", k.Cert)
	c.required("console.key", k.Key)
	if c.required("console.domain", k.Domain) && (strings.ContainsAny(k.Domain, "/:@* ") || k.Domain[0] == '.') {
		c.add("console.domain", quoted(k.Domain)+"is not a domain such as devices.example.com")
	}
	if k.Service != "" {
		c.name("console.service", k.Service)
	}
	if k.ClientsCA == "" && k.Tokens == "" {
		c.add("console", "name clients_ca, tokens or both: nobody could be let in")
	}
}

func (c *check) authorization(a Authorization, groups map[string][]string) {
	for _, name := range keys(a.Groups) {
		if g := a.Groups[name]; len(g.Devices) == 0 && len(g.OU) == 0 {
			c.add("authorization.groups."+name, "name devices, ou or both")
		}
	}
	if a.Devices == nil {
		c.present("authorization.devices")
	}
	for i, r := range a.Devices {
		field := fmt.Sprintf("authorization.devices[%d]", i)
		c.who(field, r.Who)
		for _, w := range r.Who {
			if g, ok := strings.CutPrefix(w, "@"); ok {
				_, own := a.Groups[g]
				if _, shared := groups[g]; !own && !shared {
					c.add(field+".who", "there is no group "+quoted(g)+"in authorization.groups or groups")
				}
			}
		}
		if len(r.Services) == 0 && len(r.Routes) == 0 {
			c.add(field, "name services, routes or both")
		}
	}
	if a.Operators == nil {
		c.present("authorization.operators")
	}
	for i, r := range a.Operators {
		field := fmt.Sprintf("authorization.operators[%d]", i)
		c.who(field, r.Who)
		for _, w := range r.Who {
			if kind, name, ok := strings.Cut(w, ":"); w != LocalOperator && (!ok || name == "" || kind != "cert" && kind != "token") {
				c.add(field+".who", quoted(w)+"is not local, cert:NAME or token:NAME")
			}
		}
		if len(r.May) == 0 {
			c.add(field+".may", "missing: name list, signal or dial")
		}
		for _, m := range r.May {
			c.oneOf(field+".may", m, ScopeList, ScopeSignal, ScopeDial)
		}
		if len(r.Devices) == 0 {
			c.add(field+".devices", "missing: name devices, or \"*\" for all")
		}
		for _, d := range r.Devices {
			if strings.HasPrefix(d, "@") {
				c.add(field+".devices", quoted(d)+"is a group: an operator's rule names ids, for a device that is away has shown no certificate")
			}
		}
	}
}

// present objects to a list of rules without a value: it says neither nobody
// nor everybody.
func (c *check) present(field string) {
	if _, ok := c.src.lines[field]; ok {
		c.add(field, "empty: write [] to deny everything, or remove it to allow everything")
	}
}

func (c *check) who(field string, who []string) {
	if len(who) == 0 {
		c.add(field+".who", "missing")
	}
}
