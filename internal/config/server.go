package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"
)

// DefaultListen is where a server listens when nothing says where.
const DefaultListen = "127.0.0.1:8443"

// serviceHTTP is the service at which the server itself answers devices.
const serviceHTTP = "http"

// DefaultPath is the path of the carriers on a server.
const DefaultPath = "/.well-known/atls"

// Where a device's id is taken from in its inner certificate.
const (
	IdentityURI    = "uri"    // the first URI name, less "urn:atls-ws:device:"
	IdentityDNS    = "dns"    // the first DNS name
	IdentitySerial = "serial" // the subject's serialNumber, as in IEEE 802.1AR
	IdentityCN     = "cn"     // the subject's common name
)

// Server is the configuration of the server role. Start from DefaultServer.
type Server struct {
	// Listen is the TCP address of the outer listener, host:port.
	Listen string `yaml:"listen"`
	// Outer is the TLS of the listener. Empty: plain HTTP, behind something
	// that terminates TLS.
	Outer ServerOuter `yaml:"outer"`
	// Path is the path of the carriers.
	Path string `yaml:"path"`
	// Inner is the end-to-end TLS. Required.
	Inner ServerInner `yaml:"inner"`
	// Enroll is how devices come by their certificates; by default they do not.
	Enroll Enroll `yaml:"enroll"`
	// Admin is the path of the unix socket of the admin API; empty leaves the
	// choice to the daemon.
	Admin string `yaml:"admin"`
	// Services maps the name of a service that devices may reach to its
	// target; see ParseTarget.
	Services Services `yaml:"services"`
	// AllowExec lets targets of Services be programs.
	AllowExec bool `yaml:"allow_exec"`
	// Routes lead requests of devices to the service http to origins.
	Routes []Route `yaml:"routes"`
	// Listeners lead local ports to services of devices.
	Listeners []Listener `yaml:"listeners"`
	// Console is where operators see the web pages of devices.
	Console Console `yaml:"console"`
	// Authorization says who may do what. It is read anew while the server runs,
	// and so are Groups and Deny.
	Authorization Authorization `yaml:"authorization"`
	// Deny are the devices that get no session: ids, patterns and @groups.
	Deny []string `yaml:"deny"`
	// Metrics is a loopback host:port for /metrics, /healthz and /readyz, without
	// a word of who asks; empty: they are at the admin socket and the console.
	Metrics string `yaml:"metrics"`
	// Audit is the file that decisions are appended to; empty: the log.
	Audit string `yaml:"audit"`
	// Anchors maps a name to the PEM file of the authorities with which the
	// middleboxes of one network sign. Devices that meet them get them.
	Anchors map[string]string `yaml:"anchors"`
	// Data is the directory in which signals and what became of them are kept;
	// empty is DefaultData. Not used with NATS.URL.
	Data string `yaml:"data"`
	// NATS keeps the signals; by default inside the server.
	NATS NATS `yaml:"nats"`
	// Cluster makes the server one node of several.
	Cluster Cluster `yaml:"cluster"`
	// Drain is how long devices and streams have when the server stops; 0 is the
	// daemon's default.
	Drain time.Duration `yaml:"drain"`
	// Queue bounds the signals that wait for devices.
	Queue Queue `yaml:"queue"`
	// Groups are names for several devices.
	Groups Groups `yaml:"groups"`
	// Hooks get the signals of devices; the first whose name matches answers.
	Hooks []Hook `yaml:"hooks"`
	// Cloud bounds the signals of devices that are kept.
	Cloud Cloud `yaml:"cloud"`
	// Limits bound what devices can use.
	Limits Limits `yaml:"limits"`
	// Origins are the web origins that may upgrade. Empty: a request that has an
	// Origin is refused.
	Origins []string `yaml:"origins"`
	// Log says what is logged.
	Log Log `yaml:"log"`

	src source
}

// ServerOuter names the PEM files of the outer listener: both or none.
type ServerOuter struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
}

// ServerInner names the files of a server's inner TLS.
type ServerInner struct {
	// Cert and Key are the PEM files of the server's inner certificate. Required.
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	// ClientCA is the PEM file of the authorities that vouch for devices. Required.
	ClientCA string `yaml:"client_ca"`
	// CRL are files with the authorities' lists of revoked certificates, PEM or
	// DER. They are read again when they change, and end live sessions too.
	CRL []string `yaml:"crl"`
	// Identity says which name in a certificate is the device's id. Empty: the
	// first there is of uri, dns, serial and cn.
	Identity string `yaml:"identity"`
	// FactoryCA is the PEM file of the authorities, with their roots, of the
	// certificates that devices are made with: those get to enrollment and to
	// nothing else.
	FactoryCA string `yaml:"factory_ca"`
	// Tickets is a file of at least 32 random bytes, the same on all nodes of a
	// cluster, so that a device resumes at any of them. Empty: each node has keys
	// of its own, until it ends.
	Tickets string `yaml:"tickets"`
}

// Limits bound what devices can use; 0 is the server package's default.
type Limits struct {
	Sessions     int           `yaml:"sessions"`      // live sessions
	HalfOpen     int           `yaml:"half_open"`     // sessions that are not ready yet
	Streams      int           `yaml:"streams"`       // streams of one session
	Unread       int           `yaml:"unread"`        // bytes that those may hold unread
	ReadyTimeout time.Duration `yaml:"ready_timeout"` // from the upgrade to ready
	Keepalive    time.Duration `yaml:"keepalive"`     // between pings, 1 s to under 50 s
	Signals      int           `yaml:"signals"`       // signals a second of one device
	Dials        int           `yaml:"dials"`         // connections to services of one device
	DeviceRate   int64         `yaml:"device_rate"`   // bytes a second of one device's service streams, each way
	StreamRate   int64         `yaml:"stream_rate"`   // bytes a second of one of them, each way
}

// minKeepalive is what a device takes from its server.
const minKeepalive = time.Second

// maxKeepalive is where common proxies begin to cut idle connections.
const maxKeepalive = 50 * time.Second

// DefaultServer returns the configuration of an empty file.
func DefaultServer() *Server {
	return &Server{Listen: DefaultListen, Path: DefaultPath, Queue: Queue{WhenFull: WhenFullRefuse}, Log: defaultLog()}
}

// LoadServer reads and validates the file at path.
func LoadServer(path string) (*Server, error) {
	s, err := ReadServer(path)
	if s == nil {
		return nil, err
	}
	s.ForNode()
	if err = errors.Join(err, s.Validate()); err != nil {
		return nil, sorted(err)
	}
	return s, nil
}

// ReadServer reads the file at path without validating it, for a caller that
// completes it first. Beside an error, the Server is what could be read, or
// nil.
func ReadServer(path string) (*Server, error) {
	data, err := readFile(path, "write it, starting from configs/server.yaml")
	if err != nil {
		return nil, err
	}
	return parseServer(data, path)
}

func parseServer(data []byte, path string) (*Server, error) {
	s := DefaultServer()
	src, err := decode(data, path, s)
	if src.lines == nil {
		return nil, err
	}
	s.src = src
	rebase(filepath.Dir(path), &s.Outer.Cert, &s.Outer.Key,
		&s.Inner.Cert, &s.Inner.Key, &s.Inner.ClientCA, &s.Inner.FactoryCA, &s.Inner.Tickets, &s.Admin, &s.Data, &s.NATS.Credentials, &s.NATS.CA, &s.Cluster.Cert, &s.Cluster.Key, &s.Cluster.CA,
		&s.Console.Cert, &s.Console.Key, &s.Console.ClientsCA, &s.Console.Tokens, &s.Audit)
	rebase(filepath.Dir(path), &s.Enroll.Cert, &s.Enroll.Key, &s.Enroll.UpstreamCert, &s.Enroll.UpstreamKey, &s.Enroll.UpstreamCA, &s.Enroll.Tokens)
	for i := range s.Inner.CRL {
		rebase(filepath.Dir(path), &s.Inner.CRL[i])
	}
	for name, file := range s.Anchors {
		rebase(filepath.Dir(path), &file)
		s.Anchors[name] = file
	}
	return s, err
}

// Validate reports everything that is wrong with the values, without opening
// the files they name.
func (s *Server) Validate() error {
	c := check{src: s.src}
	c.address("listen", s.Listen)
	if s.Outer.Cert != "" || s.Outer.Key != "" {
		c.required("outer.cert", s.Outer.Cert)
		c.required("outer.key", s.Outer.Key)
	}
	c.path("path", s.Path)
	c.required("inner.cert", s.Inner.Cert)
	c.required("inner.key", s.Inner.Key)
	c.required("inner.client_ca", s.Inner.ClientCA)
	for i, file := range s.Inner.CRL {
		c.required(fmt.Sprintf("inner.crl[%d]", i), file)
	}
	if s.Inner.Identity != "" {
		c.oneOf("inner.identity", s.Inner.Identity, IdentityURI, IdentityDNS, IdentitySerial, IdentityCN)
	}
	c.services(s.Services, s.AllowExec)
	for _, name := range keys(s.Anchors) {
		c.name("anchors."+name, name)
		c.required("anchors."+name, s.Anchors[name])
	}
	if _, taken := s.Services[serviceHTTP]; taken && len(s.Anchors) > 0 {
		c.add("services."+serviceHTTP, "cannot be used with anchors, which devices get there: give the service another name")
	}
	c.enroll(s)
	c.fleet(s)
	c.cluster(s)
	c.notNegative("drain", int64(s.Drain))
	c.routes(s.Routes, s.Services)
	c.listeners(s.Listeners)
	c.console(s.Console)
	c.rules(s)
	c.notNegative("limits.sessions", int64(s.Limits.Sessions))
	c.notNegative("limits.half_open", int64(s.Limits.HalfOpen))
	c.notNegative("limits.streams", int64(s.Limits.Streams))
	c.unread(s.Limits.Unread)
	c.notNegative("limits.ready_timeout", int64(s.Limits.ReadyTimeout))
	c.notNegative("limits.keepalive", int64(s.Limits.Keepalive))
	if k := s.Limits.Keepalive; k > 0 && k < minKeepalive {
		c.add("limits.keepalive", "must be at least 1s, or 0 for the default: devices ping no faster, and the server would call them dead")
	}
	c.notNegative("limits.signals", int64(s.Limits.Signals))
	c.notNegative("limits.dials", int64(s.Limits.Dials))
	c.notNegative("limits.device_rate", s.Limits.DeviceRate)
	c.notNegative("limits.stream_rate", s.Limits.StreamRate)
	if s.Limits.Keepalive >= maxKeepalive {
		c.add("limits.keepalive", "must be under 50s: proxies cut connections that are idle for longer")
	}
	c.metrics(s.Metrics)
	for _, o := range s.Origins {
		c.origin("origins", o)
	}
	c.log(s.Log)
	return c.err()
}
