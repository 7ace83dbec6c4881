package config

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func TestParseTarget(t *testing.T) {
	for s, want := range map[string]Target{
		"tcp://127.0.0.1:22":     {Scheme: "tcp", Network: "tcp", Address: "127.0.0.1:22"},
		"tcp://[::1]:22":         {Scheme: "tcp", Network: "tcp", Address: "[::1]:22"},
		"unix:///run/a.sock":     {Scheme: "unix", Network: "unix", Address: "/run/a.sock"},
		"http://localhost:8080":  {Scheme: "http", Network: "tcp", Address: "localhost:8080"},
		"http://localhost:8080/": {Scheme: "http", Network: "tcp", Address: "localhost:8080"},
		"udp://127.0.0.1:53":     {Scheme: "udp", Network: "udp", Address: "127.0.0.1:53"},
		`exec:["a b","c"]`:       {Scheme: "exec", Command: []string{"a b", "c"}},
	} {
		got, err := ParseTarget(s)
		if err != nil || !reflect.DeepEqual(got, want) || got.String() != strings.TrimSuffix(s, "/") {
			t.Errorf("ParseTarget(%q) = %+v, %v", s, got, err)
		}
	}
	if got, err := ParseTarget("exec:/bin/cat  -n"); err != nil || strings.Join(got.Command, "|") != "/bin/cat|-n" {
		t.Errorf("exec: %+v, %v", got, err)
	}
	if got, err := ParseTarget("proxy:10.0.0.0/8:443,!*.corp:*"); err != nil || got.String() != "proxy:10.0.0.0/8:443,!*.corp:*" {
		t.Errorf("proxy: %+v, %v", got, err)
	}
	for _, s := range []string{"", "22", "127.0.0.1:22", "tcp:h:1", "tcp://", "tcp://:22", "tcp://h", "tcp://h:x", "tcp://h:99999", "tcp://h:0",
		"tcp://h:1/x", "http://u@h:1", "http://h:80/path", "unix://a", "unix://", "https://h:1", "exec:", "exec:[", "exec:[1]", "proxy:", "proxy:a*b:1"} {
		if got, err := ParseTarget(s); err == nil {
			t.Errorf("ParseTarget(%q) = %+v, want an error", s, got)
		}
	}
}

func TestDestinationsAllowByAddressAndNameAndDenyTheRest(t *testing.T) {
	d, err := ParseDestinations([]string{"10.0.0.0/8:443", "*.corp:8000-8099", "db.example:5432", "localhost:7", "[2001:db8::1]:22", "!10.6.6.6:*", "!evil.corp:*"})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		host, addr string
		denied     string // empty: allowed
	}{
		{"10.1.2.3", "10.1.2.3:443", ""},
		{"anything.example", "10.1.2.3:443", ""}, // a name that leads into an allowed network
		{"10.1.2.3", "10.1.2.3:80", "no rule allows"},
		{"10.6.6.6", "10.6.6.6:443", "denied by the rule !10.6.6.6:*"},
		{"a.b.CORP.", "192.168.1.1:8042", ""},
		{"corp", "192.168.1.1:8042", "no rule"},
		{"notcorp", "192.168.1.1:8042", "no rule"},
		{"evil.corp", "192.168.1.1:8042", "denied by the rule"},
		{"a.corp", "10.6.6.6:8042", "denied by the rule"}, // by the address it leads to
		{"a.corp", "127.0.0.1:8042", "only a rule for that address"},
		{"a.corp", "169.254.169.254:8000", "only a rule for that address"},
		{"a.corp", "[::ffff:127.0.0.1]:8042", "only a rule for that address"},
		{"a.corp", "[fe80::1]:8042", "only a rule for that address"},
		{"db.example", "192.0.2.1:5432", ""},
		{"db.example", "192.0.2.1:5433", "no rule"},
		{"localhost", "127.0.0.1:7", ""},
		{"x.example", "[::1]:7", ""},
		{"2001:db8::1", "[2001:db8::1]:22", ""},
	} {
		err := d.Check(tc.host, netip.MustParseAddrPort(tc.addr))
		if (err == nil) != (tc.denied == "") || err != nil && !strings.Contains(err.Error(), tc.denied) {
			t.Errorf("%s at %s: %v, want %q", tc.host, tc.addr, err, tc.denied)
		}
	}
	if err := Destinations(nil).Check("h", netip.MustParseAddrPort("192.0.2.1:1")); err == nil {
		t.Error("the zero value allows something")
	}
	for _, s := range []string{"", "h", ":1", "h:0", "h:9-1", "h:x", "a*:1", "*x:1", "10.0.0.0/99:1", "h:70000"} {
		if _, err := ParseDestinations([]string{s}); err == nil {
			t.Errorf("%q is taken for a destination", s)
		}
	}
}

func TestParseListen(t *testing.T) {
	for s, want := range map[string]string{
		":22": "tcp 127.0.0.1:22", "*:22": "tcp :22", "0.0.0.0:0": "tcp 0.0.0.0:0", "[::1]:1": "tcp [::1]:1",
		"udp:127.0.0.1:53": "udp 127.0.0.1:53", "udp::53": "udp 127.0.0.1:53", "unix:/a b": "unix /a b", "unix:///x": "unix /x",
	} {
		network, address, err := ParseListen(s)
		if err != nil || network+" "+address != want {
			t.Errorf("ParseListen(%q) = %s %s, %v", s, network, address, err)
		}
	}
	for _, s := range []string{"", "22", "unix:", "udp:", "a/b:1", ":x"} {
		if n, a, err := ParseListen(s); err == nil {
			t.Errorf("ParseListen(%q) = %s %s", s, n, a)
		}
	}
}

func TestTargetMayBeAMapping(t *testing.T) {
	d, err := LoadDevice(write(t, "d.yaml", minimalDevice+`allow_exec: true
services:
  lan: {proxy: {allow: ["10.0.0.0/8:443", "*.corp:*"], deny: ["10.0.0.1:*"]}}
  sh: {exec: [sh, -c, "date; id"]}
`))
	if err != nil {
		t.Fatal(err)
	}
	if got := d.Services["lan"]; got != "proxy:10.0.0.0/8:443,*.corp:*,!10.0.0.1:*" {
		t.Error(got)
	}
	if got, err := ParseTarget(d.Services["sh"]); err != nil || !reflect.DeepEqual(got.Command, []string{"sh", "-c", "date; id"}) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestReachProblems(t *testing.T) {
	for _, tc := range []struct{ name, yaml, want string }{
		{"a target that is a mapping", "services:\n  a: {proxy: {alow: [x]}}\n  b: {}\n  c:\n    proxy: {allow: [nowhere]}\n  d: {exec: [id]}\n",
			`FILE:3: services.a.proxy.alow: unknown key, want allow, deny
FILE:4: services.b: want either proxy with a list of what it allows, or exec with a program
FILE:5: services.c: target "proxy:nowhere": destination "nowhere": want HOST:PORT, as in 10.0.0.0/8:443, db.corp:5432 or *.corp:*
FILE:7: services.d: exec is off: whoever reaches the service runs this program; allow_exec: true (--allow-exec) turns it on`},
		{"unknown keys in lists", "listeners:\n- {listen: \":1\", device: d, service: s}\n- listen: x\n  servce: s\n",
			`FILE:4: listeners[1].listen: "x": want host:port; or :port, *:port, udp:host:port, unix:/path
FILE:4: listeners[1].device: missing
FILE:4: listeners[1].service: missing
FILE:5: listeners[1].servce: unknown key, want device, listen, service`},
		{"routes", "services: {http: \"tcp://h:1\"}\nroutes:\n- {to: \"ftp://x\", host: \"a:1\", path: x}\n- {path: /a, to: \"http://h\"}\n- {path: /a, to: \"http://h\"}\n",
			`FILE:2: services.http: routes answer the service http; name this one otherwise, or give it a route
FILE:4: routes[0].host: "a:1" is not a host name without a port
FILE:4: routes[0].path: "x" is not the beginning of a path, such as /api/
FILE:4: routes[0].to: want a URL that begins with http://, https://
FILE:6: routes[2]: an earlier route has the same host and path`},
		{"console and rules", "console: {listen: \":1\", domain: x}\nauthorization:\n  groups: {g: {}}\n  devices:\n  operators:\n  - {who: [joe], may: [reboot], devices: [\"@g\"]}\n  - who: [local]\n    may: [dial]\n    devices: [\"*\"]\n",
			`FILE:2: console.cert: missing
FILE:2: console.key: missing
FILE:2: console: name clients_ca, tokens or both: nobody could be let in
FILE:4: authorization.groups.g: name devices, ou or both
FILE:5: authorization.devices: empty: write [] to deny everything, or remove it to allow everything
FILE:7: authorization.operators[0].who: "joe" is not local, cert:NAME or token:NAME
FILE:7: authorization.operators[0].may: "reboot" is not one of list, signal, dial
FILE:7: authorization.operators[0].devices: "@g" is a group: an operator's rule names ids, for a device that is away has shown no certificate`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := write(t, "c.yaml", minimalServer+tc.yaml)
			_, err := LoadServer(path)
			if err == nil || strings.ReplaceAll(err.Error(), path, "FILE") != tc.want {
				t.Errorf("got:\n%v\nwant:\n%s", err, tc.want)
			}
		})
	}
}
