package config

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/atls-ws/atls-ws/internal/outer"
	"github.com/atls-ws/atls-ws/internal/pki"
)

// ProxyDirect as a device's proxy means none, whatever the environment says.
const ProxyDirect = "direct"

const (
	nextDevice = "make one with \"atls-ws pki device ID\" where the CA is, and copy it here"
	nextServer = "make one with \"atls-ws pki server\""
	nextCA     = "it is the ca.pem that \"atls-ws pki init\" made"
	nextOuter  = "have the public certificate renewed or name the right file"
	nextRoots  = "get it with \"atls-ws bootstrap --out FILE\", or ask the owner of the network for its CA in PEM"
)

// TLS loads the files of the inner TLS. It reports everything that is wrong
// with them; an expired certificate is an *ExpiredError.
func (d *Device) TLS() (*tls.Config, error) {
	now := d.now
	if now == nil {
		now = time.Now
	}
	cert, certErr := loadPairAt(now(), d.Inner.Cert, d.Inner.Key, nextDevice)
	roots, rootsErr := loadPool(d.Inner.CA, nextCA, nil)
	if err := errors.Join(certErr, rootsErr); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{cert},
		RootCAs:      roots,
		ServerName:   d.Inner.ServerName,
		Time:         d.now,
	}, nil
}

// SetClock makes certificates be judged by a clock other than the system's.
func (d *Device) SetClock(now func() time.Time) { d.now = now }

// LookTLS is TLS for a look at the server: what is not configured is left out,
// and nothing is made of it but a handshake.
func (d *Device) LookTLS() (*tls.Config, error) {
	if d.Inner.Cert != "" {
		return d.TLS()
	}
	c := &tls.Config{MinVersion: tls.VersionTLS13, ServerName: d.Inner.ServerName}
	var err error
	if d.Inner.CA != "" {
		c.RootCAs, err = loadPool(d.Inner.CA, nextCA, nil)
	}
	return c, err
}

// OuterRoots returns the system's authorities with those of the outer roots
// file, or nil when no file is set: the system's alone.
func (d *Device) OuterRoots() (*x509.CertPool, error) {
	if d.Outer.Roots == "" {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // a small device may have none
	}
	return loadPool(d.Outer.Roots, nextRoots, pool)
}

// OuterPins are the sums of Outer.Pins.
func (d *Device) OuterPins() ([][sha256.Size]byte, error) { return d.Outer.pins() }

func (o *DeviceOuter) pins() (pins [][sha256.Size]byte, err error) {
	for _, p := range o.Pins {
		text, ok := strings.CutPrefix(p, "sha256/")
		sum, err := base64.StdEncoding.DecodeString(text)
		if !ok || err != nil || len(sum) != sha256.Size {
			return nil, fmt.Errorf("%q is not sha256/ and the base64 of 32 bytes", p)
		}
		pins = append(pins, [sha256.Size]byte(sum))
	}
	return pins, nil
}

// ProxyFunc returns the choice of proxy in the form that client.Config takes.
func (d *Device) ProxyFunc() (func(*http.Request) (*url.URL, error), error) {
	switch d.Proxy {
	case "":
		return outer.Environment, nil
	case ProxyDirect:
		return func(*http.Request) (*url.URL, error) { return nil, nil }, nil
	}
	u, err := url.Parse(d.Proxy)
	if err != nil {
		return nil, errors.New("proxy: not a URL") // the text may hold a password
	}
	return http.ProxyURL(u), nil
}

// Check validates the values, then loads the files that they name.
func (d *Device) Check() error {
	if err := d.Validate(); err != nil {
		return err
	}
	inner := d.checkTLS()
	_, roots := d.OuterRoots()
	return errors.Join(inner, roots)
}

// TLS loads the files of the inner TLS. It reports everything that is wrong
// with them; an expired certificate is an *ExpiredError. Its VerifyConnection
// refuses what the CRLs revoke, also for sessions that are up already.
func (s *Server) TLS() (*tls.Config, error) {
	cert, certErr := loadPair(s.Inner.Cert, s.Inner.Key, nextServer)
	pool, poolErr := loadPool(s.Inner.ClientCA, nextCA, nil)
	if err := errors.Join(certErr, poolErr); err != nil {
		return nil, err
	}
	clients, _, err := s.loadClients()
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:       tls.VersionTLS13,
		Certificates:     []tls.Certificate{cert},
		ClientAuth:       tls.RequireAndVerifyClientCert,
		ClientCAs:        pool,
		VerifyConnection: clients.verify,
	}, nil
}

// OuterTLS loads the certificate of the listener; nil means plain HTTP.
func (s *Server) OuterTLS() (*tls.Config, error) {
	if s.Outer.Cert == "" && s.Outer.Key == "" {
		return nil, nil
	}
	cert, err := loadPair(s.Outer.Cert, s.Outer.Key, nextOuter)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS12, // middleboxes lag behind
		Certificates: []tls.Certificate{cert},
		NextProtos:   []string{"http/1.1"}, // a WebSocket upgrade is HTTP/1.1
	}, nil
}

// TLS loads the files of the console's listener. A client certificate is
// optional for TLS: there are tokens too, and who is let in is decided later.
func (k *Console) TLS() (*tls.Config, error) {
	cert, err := loadPair(k.Cert, k.Key, nextOuter)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}}
	if k.ClientsCA != "" {
		if c.ClientCAs, err = loadPool(k.ClientsCA, "name the CA that vouches for operators, not that of devices", nil); err != nil {
			return nil, err
		}
		c.ClientAuth = tls.VerifyClientCertIfGiven
	}
	return c, nil
}

// Identify returns the function that takes a device's id from its inner
// certificate, or nil for the server package's default.
func (s *Server) Identify() func(tls.ConnectionState) (string, error) {
	if s.Inner.Identity == "" {
		return nil
	}
	from := s.Inner.Identity
	return func(state tls.ConnectionState) (string, error) {
		if len(state.PeerCertificates) == 0 {
			return "", errors.New("no client certificate")
		}
		if id := identity(state.PeerCertificates[0], from); id != "" {
			return id, nil
		}
		return "", fmt.Errorf("the client certificate has no %s name", from)
	}
}

func identity(c *x509.Certificate, from string) string {
	switch {
	case from == IdentityURI && len(c.URIs) > 0:
		return strings.TrimPrefix(c.URIs[0].String(), pki.DeviceURN)
	case from == IdentityDNS && len(c.DNSNames) > 0:
		return c.DNSNames[0]
	case from == IdentitySerial:
		return c.Subject.SerialNumber
	case from == IdentityCN:
		return c.Subject.CommonName
	}
	return ""
}

// Check validates the values, then loads the files that they name.
func (s *Server) Check() error {
	if err := s.Validate(); err != nil {
		return err
	}
	_, inner := s.TLS()
	_, outer := s.OuterTLS()
	_, anchors := s.AnchorSets()
	var console error
	if s.Console != (Console{}) {
		_, console = s.Console.TLS()
	}
	var cluster error
	if s.Cluster.On() {
		_, cluster = s.Cluster.TLS()
	}
	_, tickets := s.TicketKeys(time.Now())
	return errors.Join(inner, outer, anchors, console, cluster, tickets, s.checkEnroll())
}
