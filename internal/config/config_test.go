package config

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const minimalDevice = "url: https://h\ninner: {cert: c, key: k, ca: a}\n"
const minimalServer = "inner: {cert: c, key: k, client_ca: a}\n"

func TestMinimalDeviceHasDefaults(t *testing.T) {
	path := write(t, "d.yaml", minimalDevice)
	d, err := LoadDevice(path)
	if err != nil {
		t.Fatal(err)
	}
	if d.Inner.ServerName != "atls-ws" || d.Carrier != CarrierAuto || d.Outer.Policy != "" || d.Log != defaultLog() {
		t.Errorf("defaults: %+v", d)
	}
	if want := filepath.Join(filepath.Dir(path), "c"); d.Inner.Cert != want {
		t.Errorf("cert = %s, want %s: relative to the file", d.Inner.Cert, want)
	}
	if d.Outer.Roots != "" {
		t.Errorf("roots = %q, want an empty path to stay empty", d.Outer.Roots)
	}
}

func TestMinimalServerHasDefaults(t *testing.T) {
	s, err := LoadServer(write(t, "s.yaml", minimalServer+"admin: /run/x.sock\n"))
	if err != nil {
		t.Fatal(err)
	}
	if s.Listen != DefaultListen || s.Path != DefaultPath || s.Log != defaultLog() || s.Admin != "/run/x.sock" {
		t.Errorf("defaults: %+v", s)
	}
	if outer, err := s.OuterTLS(); outer != nil || err != nil {
		t.Errorf("OuterTLS = %v, %v, want plain HTTP", outer, err)
	}
}

func TestFleetProblemsAreFoundWithTheirLines(t *testing.T) {
	_, err := LoadServer(write(t, "s.yaml", minimalServer+`nats:
  url: http://x
  replicas: 9
queue: {when_full: wait, max_age: -1s}
groups:
  "bad name": [a]
  ok: ["a b", x]
  no: 3
hooks:
  - name: a
    command: [x]
    url: http://h
  - name: b
    command: [x]
    comand: [y]
  - url: ftp://h
`))
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		":3: nats.url: want a URL that begins with nats://, tls://", ":4: nats.replicas: want 1 to 5", ":5: queue.when_full: ", ":5: queue.max_age: must not be negative",
		":7: groups.bad name: ", ":8: groups.ok: \"a b\" is not", ":9: groups.no: want a mapping with the keys devices, ou", ":11: hooks[0]: want either command or url", ":16: hooks[1].comand: unknown key, want command, name, timeout, url",
		":17: hooks[2].name: missing", ":17: hooks[2].url: ",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in:\n%s", want, err)
		}
	}
	if _, err := LoadServer(write(t, "s.yaml", minimalServer+"nats: {ca: x, replicas: 3}\n")); err == nil || !strings.Contains(err.Error(), "nats.ca: goes with nats.url") {
		t.Error(err)
	}
}

func TestShippedClusterFileIsForEveryNode(t *testing.T) {
	s, err := ReadServer("../../configs/cluster.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s.Cluster.Node = "b" // as --node does
	s.ForNode()
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(s.Cluster.Cert, "pki/node-b.pem") || !strings.HasSuffix(s.Data, "data-b") || s.Cluster.Advertise != "node-b.example.net:7443" || len(s.NATS.Cluster.Routes) != 3 {
		t.Errorf("%+v", s.Cluster)
	}
	for name, typ := range map[string]reflect.Type{"cluster": reflect.TypeOf(s.Cluster), "nats": reflect.TypeOf(s.NATS), "nats.cluster": reflect.TypeOf(s.NATS.Cluster)} {
		for sub := range fields(typ) {
			if s.src.lines[name+"."+sub] == 0 {
				t.Errorf("it does not say %s.%s", name, sub)
			}
		}
	}
}

func TestClusterProblemsAreFoundWithTheirLines(t *testing.T) {
	_, err := LoadServer(write(t, "s.yaml", minimalServer+`nats:
  url: nats://h
  cluster:
    listen: 127.0.0.1:6222
    routes: ["http://h"]
cluster:
  node: a.b
  listen: 0.0.0.0:7443
`))
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		":4: nats.cluster: NATS is elsewhere", "nats.cluster.name: missing", ":6: nats.cluster.routes: want a URL that begins with nats://, tls://",
		":8: cluster.node: \"a.b\" is not a name", "cluster.advertise: missing: cluster.listen says every address", "cluster.cert: missing", "cluster.ca: missing",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in:\n%s", want, err)
		}
	}
	if _, err := LoadServer(write(t, "s.yaml", minimalServer+"cluster: {node: a, listen: '127.0.0.1:1', cert: c, key: k, ca: a}\n")); err == nil || !strings.Contains(err.Error(), "the nodes share their NATS") {
		t.Error(err)
	}
}

func TestShippedFilesLoadAndSayEveryKey(t *testing.T) {
	d, err := LoadDevice("../../configs/device.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if d.Signals["reboot"].Timeout != 10*time.Second || len(d.Signals["*"].Command) != 3 || len(d.Services) != 4 {
		t.Errorf("device: %+v", d)
	}
	s, err := LoadServer("../../configs/server.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if s.Limits.Keepalive != 25*time.Second || len(s.Services) != 3 || s.Inner.Identity != IdentityURI {
		t.Errorf("server: %+v", s)
	}
	for _, src := range []struct {
		source
		typ reflect.Type
	}{{d.src, reflect.TypeOf(*d)}, {s.src, reflect.TypeOf(*s)}} {
		for name, typ := range fields(src.typ) {
			if src.lines[name] == 0 {
				t.Errorf("%s does not say %s", src.file, name)
			}
			if typ.Kind() != reflect.Struct {
				continue
			}
			for sub := range fields(typ) {
				if src.lines[name+"."+sub] == 0 {
					t.Errorf("%s does not say %s.%s", src.file, name, sub)
				}
			}
		}
	}
}

func TestProblems(t *testing.T) {
	device := func(path string) error { _, err := LoadDevice(path); return err }
	server := func(path string) error { _, err := LoadServer(path); return err }
	tests := []struct {
		name string
		load func(string) error
		yaml string
		want string // FILE stands for the path
	}{
		{"empty device", device, "# nothing\n", `FILE: url: missing
FILE: inner.cert: missing
FILE: inner.key: missing
FILE: inner.ca: missing`},
		{"empty server", server, "", `FILE: inner.cert: missing
FILE: inner.key: missing
FILE: inner.client_ca: missing`},
		{"null", server, "~\n", `FILE: inner.cert: missing
FILE: inner.key: missing
FILE: inner.client_ca: missing`},
		{"not YAML", device, "url: [\n", "FILE:2: did not find expected node content"},
		{"tab", device, "\turl: x\n", "FILE:1: found character that cannot start any token"},
		{"two documents", device, minimalDevice + "---\nurl: x\n", "FILE: expected single document, found multiple"},
		{"duplicate key", device, minimalDevice + "url: https://i\n", "FILE:3: url: is already on line 1"},
		{"not a mapping", device, "- a\n", "FILE:1: want a mapping with the keys allow_exec, carrier, early_hello, enroll, forwards, inner, limits, log, outer, proxy, services, signals, state, url"},
		{"unknown keys at all depths", device, "url: https://h\ntone: red\ninner: {cert: c, key: k, ca: a, crt: x}\nsignals:\n  a:\n    command: [b]\n    tiemout: 3s\n",
			`FILE:2: tone: unknown key, want allow_exec, carrier, early_hello, enroll, forwards, inner, limits, log, outer, proxy, services, signals, state, url
FILE:3: inner.crt: unknown key, want ca, cert, key, server_name
FILE:7: signals.a.tiemout: unknown key, want command, timeout`},
		{"a misread field is one problem", device, "url: https://h\ninner: 3\n", "FILE:2: inner: want a mapping with the keys ca, cert, key, server_name"},
		{"types", device, minimalDevice + "services: [a]\nsignals:\n  a: {command: reboot}\n  b: {command: [c], timeout: 5}\n  d: {command: [e], timeout: soon}\n",
			`FILE:3: services: want a mapping of names to values
FILE:5: signals.a.command: want a list such as [a, b]
FILE:6: signals.b.timeout: want a duration such as 30s or 5m
FILE:7: signals.d.timeout: want a duration such as 30s or 5m`},
		{"device values", device, "url: ftp://h\ninner: {cert: c, key: k, ca: a, server_name: ''}\nouter:\n  policy: lax\n  pins: [sha256/AAAA]\nproxy: https://user:secret@\nservices:\n  a: sctp://h:1\n  b c: tcp://h:1\nsignals:\n  d: {}\n  e: {command: [f], timeout: -1s}\nlog:\n  level: loud\n  format: xml\n",
			`FILE:1: url: want a URL that begins with https://, wss://, http://, ws://
FILE:2: inner.server_name: missing
FILE:4: outer.policy: "lax" is not one of report, verify, pin
FILE:5: outer.pins: "sha256/AAAA" is not sha256/ and the base64 of 32 bytes
FILE:6: proxy: the host is missing
FILE:8: services.a: target "sctp://h:1": scheme "sctp" is not tcp, http, unix, udp, exec or proxy
FILE:9: services.b c: name "b c": byte 1 is not printable ASCII
FILE:11: signals.d.command: missing: name a program, for example [sh, -c, "cat"]
FILE:12: signals.e.timeout: must not be negative
FILE:14: log.level: "loud" is not one of debug, info, warn, error
FILE:15: log.format: "xml" is not one of text, json`},
		{"server values", server, "listen: nowhere\nouter:\n  cert: x\npath: atls/\ninner: {cert: c, key: k, client_ca: a, identity: mac}\nlimits:\n  sessions: -1\n  streams: many\n  keepalive: 50s\norigins: [example.com]\n",
			`FILE:1: listen: want host:port
FILE:2: outer.key: missing
FILE:4: path: "atls/" is not a plain absolute path such as /.well-known/atls
FILE:5: inner.identity: "mac" is not one of uri, dns, serial, cn
FILE:7: limits.sessions: must not be negative
FILE:8: limits.streams: want a whole number
FILE:9: limits.keepalive: must be under 50s: proxies cut connections that are idle for longer
FILE:10: origins: "example.com" is not an origin such as https://console.example.com`},
		{"metrics for everybody", server, "inner: {cert: c, key: k, client_ca: a}\nmetrics: 0.0.0.0:9464\n",
			"FILE:2: metrics: \"0.0.0.0:9464\" is not a loopback address: from elsewhere, scrape /metrics of the console with a token"},
		{"keepalive and reserved name", server, "inner: {cert: c, key: k, client_ca: a}\nservices:\n  signals: tcp://h:1\nlimits: {keepalive: 10ms, unread: 4096}\n",
			`FILE:3: services.signals: this name is reserved for the signals themselves
FILE:4: limits.unread: must be at least 4194304 bytes, for 16 windows of 256 KiB, or 0 for the default
FILE:4: limits.keepalive: must be at least 1s, or 0 for the default: devices ping no faster, and the server would call them dead`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := write(t, "c.yaml", tt.yaml)
			err := tt.load(path)
			if err == nil {
				t.Fatal("no error")
			}
			if got := strings.ReplaceAll(err.Error(), path, "FILE"); got != tt.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, tt.want)
			}
			var ps Problems
			if !errors.As(err, &ps) || len(ps) != strings.Count(tt.want, "\n")+1 {
				t.Errorf("not a Problems of one per line: %T", err)
			}
		})
	}
}

func TestFileThatCannotBeRead(t *testing.T) {
	for name, path := range map[string]string{
		"no such file": filepath.Join(t.TempDir(), "none.yaml"),
		"directory":    t.TempDir(),
		"bytes long":   write(t, "big.yaml", strings.Repeat("#", maxFile+1)),
	} {
		_, err := LoadDevice(path)
		var fe *FileError
		if !errors.As(err, &fe) || fe.File != path || fe.Next == "" || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFlagsCompleteWhatTheFileLacks(t *testing.T) {
	path := write(t, "d.yaml", "log:\n  level: loud\ninner: {cert: c, key: k, ca: a}\n")
	d, err := ReadDevice(path)
	if err != nil {
		t.Fatal(err)
	}
	d.URL = "wss://h/x"
	if err := d.Validate(); err == nil || err.Error() != path+`:2: log.level: "loud" is not one of debug, info, warn, error` {
		t.Errorf("Validate: %v", err)
	}
	d.Log.Level = "warn"
	if err := d.Validate(); err != nil {
		t.Error(err)
	}
	if err := DefaultDevice().Validate(); err == nil || !strings.HasPrefix(err.Error(), "url: missing\n") {
		t.Errorf("without a file: %v", err)
	}
}

func TestLogger(t *testing.T) {
	var b bytes.Buffer
	Log{Level: "warn", Format: "json"}.Logger(&b).Info("quiet")
	Log{Level: "warn", Format: "json"}.Logger(&b).Warn("loud")
	Log{}.Logger(&b).Info("plain")
	if got := b.String(); strings.Contains(got, "quiet") || !strings.Contains(got, `"msg":"loud"`) || !strings.Contains(got, "msg=plain") {
		t.Error(got)
	}
}

func FuzzDevice(f *testing.F) {
	f.Add([]byte(minimalDevice))
	seed(f, "../../configs/device.yaml")
	f.Fuzz(func(t *testing.T, data []byte) {
		if d, err := parseDevice(data, "f.yaml"); d != nil {
			_ = d.Validate()
			for _, target := range d.Services {
				if got, err := ParseTarget(target); err == nil && got.Address == "" && len(got.Command) == 0 && len(got.Allow) == 0 {
					t.Errorf("ParseTarget(%q) = %+v", target, got)
				}
			}
		} else if err == nil {
			t.Error("neither a Device nor an error")
		}
	})
}

func FuzzServer(f *testing.F) {
	f.Add([]byte(minimalServer))
	seed(f, "../../configs/server.yaml")
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseServer(data, "f.yaml")
		if s == nil && err == nil {
			t.Error("neither a Server nor an error")
		}
		if s != nil {
			_ = s.Validate()
		}
	})
}

func seed(f *testing.F, path string) {
	f.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("inner: &x {cert: c}\nouter: *x\n<<: *x\n"))
}
