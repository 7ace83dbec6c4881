package config

import (
	"errors"
	"path/filepath"
	"time"
)

// Outer policies of a device.
const (
	// PolicyReport accepts whatever certificate the outer hop shows and reports
	// it to the server inside.
	PolicyReport = "report"
	// PolicyVerify refuses an outer certificate that does not verify.
	PolicyVerify = "verify"
	// PolicyPin refuses an outer chain without one of the pinned keys.
	PolicyPin = "pin"
)

// Carriers of a device.
const (
	CarrierAuto      = "auto"      // WebSocket, or POST where that does not get through
	CarrierWebSocket = "websocket" // nothing else
	CarrierPOST      = "post"      // nothing else
)

// SignalWake is the signal that a device gets when somebody waits to connect to
// one of its services; its data is the service's name.
const SignalWake = "wake"

// DefaultCommandTimeout bounds a signal's command that sets no timeout.
const DefaultCommandTimeout = 30 * time.Second

// Device is the configuration of the device role. Start from DefaultDevice.
type Device struct {
	// URL of the server: https, wss, http or ws. Required.
	URL string `yaml:"url"`
	// Carrier is how the inner TLS travels.
	Carrier string `yaml:"carrier"`
	// EarlyHello sends the inner ClientHello behind the upgrade request, a round trip
	// sooner than RFC 6455 has it.
	EarlyHello bool `yaml:"early_hello"`
	// Inner is the end-to-end TLS. Required.
	Inner DeviceInner `yaml:"inner"`
	// Enroll is how the device comes by its certificate; by default it has one.
	Enroll DeviceEnroll `yaml:"enroll"`
	// Outer is the TLS to whoever answers.
	Outer DeviceOuter `yaml:"outer"`
	// Proxy is the URL of the proxy, "direct" for none, or empty for the
	// environment's (HTTPS_PROXY, ALL_PROXY, NO_PROXY).
	Proxy string `yaml:"proxy"`
	// Services maps the name of a service that the server may reach to its
	// target.
	Services Services `yaml:"services"`
	// AllowExec lets targets of Services be programs.
	AllowExec bool `yaml:"allow_exec"`
	// Forwards lead local ports to services of the server.
	Forwards []Forward `yaml:"forwards"`
	// Limits bound what the server can use.
	Limits DeviceLimits `yaml:"limits"`
	// Signals maps the name of a signal, or "*" for any other, to the command
	// that handles it.
	Signals map[string]Command `yaml:"signals"`
	// State is a directory in which the device keeps how far it has handled the
	// queued signals. Empty: in memory, so that a signal whose ack was lost could be
	// handled again after a restart.
	State string `yaml:"state"`
	// Log says what is logged.
	Log Log `yaml:"log"`

	src source
	now func() time.Time // nil: the system's clock
}

// DeviceInner names the files of a device's inner TLS.
type DeviceInner struct {
	// Cert and Key are the PEM files of the device's certificate. Required.
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	// CA is the PEM file of the authorities that may vouch for the server. Required.
	CA string `yaml:"ca"`
	// ServerName is the name that the server's inner certificate must carry.
	ServerName string `yaml:"server_name"`
}

// DeviceOuter says how a device treats the outer certificate.
type DeviceOuter struct {
	// Policy is PolicyReport, PolicyVerify or PolicyPin. Empty: verify where Roots
	// is set, else report.
	Policy string `yaml:"policy"`
	// Roots is a PEM file of authorities for the outer certificate, beside the
	// system's. Never trusted inside.
	Roots string `yaml:"roots"`
	// Pins are the keys for PolicyPin, of the server or of an authority of its
	// chain: sha256/ and the base64 of the sum of the SubjectPublicKeyInfo.
	Pins []string `yaml:"pins"`
}

// Command handles one kind of signal: the signal's data is its standard input,
// exit status 0 acks.
type Command struct {
	// Command is the program and its arguments. No shell is involved unless it
	// is named: [sh, -c, "..."].
	Command []string `yaml:"command"`
	// Timeout bounds one run; 0 is DefaultCommandTimeout.
	Timeout time.Duration `yaml:"timeout"`
}

// DeviceLimits bound what the server can use of a device; 0 is the default.
type DeviceLimits struct {
	Streams    int   `yaml:"streams"`     // open at once; 256
	Unread     int   `yaml:"unread"`      // bytes that those may hold unread; 128 MiB
	Rate       int64 `yaml:"rate"`        // bytes a second of all service streams, each way; no limit
	StreamRate int64 `yaml:"stream_rate"` // bytes a second of one of them, each way; no limit
}

// DefaultDevice returns the configuration of an empty file.
func DefaultDevice() *Device {
	return &Device{
		Inner:   DeviceInner{ServerName: "atls-ws"},
		Carrier: CarrierAuto,
		Log:     defaultLog(),
	}
}

// LoadDevice reads and validates the file at path.
func LoadDevice(path string) (*Device, error) {
	d, err := ReadDevice(path)
	if d == nil {
		return nil, err
	}
	if err = errors.Join(err, d.Validate()); err != nil {
		return nil, sorted(err)
	}
	return d, nil
}

// ReadDevice reads the file at path without validating it, for a caller that
// completes it first. Beside an error, the Device is what could be read, or
// nil.
func ReadDevice(path string) (*Device, error) {
	data, err := readFile(path, "write it, starting from configs/device.yaml")
	if err != nil {
		return nil, err
	}
	return parseDevice(data, path)
}

func parseDevice(data []byte, path string) (*Device, error) {
	d := DefaultDevice()
	src, err := decode(data, path, d)
	if src.lines == nil {
		return nil, err
	}
	d.src = src
	rebase(filepath.Dir(path), &d.Inner.Cert, &d.Inner.Key, &d.Inner.CA, &d.Outer.Roots, &d.State,
		&d.Enroll.Token, &d.Enroll.FactoryCert, &d.Enroll.FactoryKey)
	return d, err
}

// Validate reports everything that is wrong with the values, without opening
// the files they name.
func (d *Device) Validate() error {
	c := check{src: d.src}
	c.url("url", d.URL, "https", "wss", "http", "ws")
	c.required("inner.cert", d.Inner.Cert)
	c.required("inner.key", d.Inner.Key)
	c.required("inner.ca", d.Inner.CA)
	c.required("inner.server_name", d.Inner.ServerName)
	c.oneOf("carrier", d.Carrier, CarrierAuto, CarrierWebSocket, CarrierPOST)
	if d.Outer.Policy != "" {
		c.oneOf("outer.policy", d.Outer.Policy, PolicyReport, PolicyVerify, PolicyPin)
	}
	if _, err := d.Outer.pins(); err != nil {
		c.add("outer.pins", err.Error())
	} else if d.Outer.Policy == PolicyPin && len(d.Outer.Pins) == 0 {
		c.add("outer.pins", "missing: policy pin needs keys")
	}
	if d.Proxy != "" && d.Proxy != ProxyDirect {
		c.url("proxy", d.Proxy, "http", "https", "socks5", "socks5h")
	}
	c.deviceEnroll(d)
	c.services(d.Services, d.AllowExec)
	c.forwards(d.Forwards)
	c.notNegative("limits.streams", int64(d.Limits.Streams))
	c.unread(d.Limits.Unread)
	c.notNegative("limits.rate", d.Limits.Rate)
	c.notNegative("limits.stream_rate", d.Limits.StreamRate)
	for _, name := range keys(d.Signals) {
		field := "signals." + name
		c.name(field, name)
		cmd := d.Signals[name]
		if len(cmd.Command) == 0 || cmd.Command[0] == "" {
			c.add(field+".command", "missing: name a program, for example [sh, -c, \"cat\"]")
		}
		c.notNegative(field+".timeout", int64(cmd.Timeout))
	}
	c.log(d.Log)
	return c.err()
}
