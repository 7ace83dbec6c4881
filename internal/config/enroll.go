package config

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/atls-ws/atls-ws/internal/pki"
)

// DefaultLifetime is that of the certificates that the server signs.
const DefaultLifetime = 90 * 24 * time.Hour

// Enroll is the authority from which devices get their certificates; the zero
// value is none.
type Enroll struct {
	// Cert and Key are the PEM files of an authority that the server signs with.
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	// Lifetime of what it signs; 0 is DefaultLifetime.
	Lifetime time.Duration `yaml:"lifetime"`
	// Upstream is the URL of an EST server that signs instead, with its path.
	Upstream string `yaml:"upstream"`
	// UpstreamCert and UpstreamKey are what the server shows there; UpstreamCA is
	// the PEM file of the authorities for it, the system's when it is empty.
	UpstreamCert string `yaml:"upstream_cert"`
	UpstreamKey  string `yaml:"upstream_key"`
	UpstreamCA   string `yaml:"upstream_ca"`
	// Tokens is the file of one-time tokens; empty: there are none.
	Tokens string `yaml:"tokens"`
	// Devices are the ids that may have certificates: patterns, in which a * stands
	// for any text. Empty: all.
	Devices []string `yaml:"devices"`
}

// Enrolls says whether devices can enroll.
func (s *Server) Enrolls() bool { return s.Enroll.Cert != "" || s.Enroll.Upstream != "" }

func (c *check) enroll(s *Server) {
	e := s.Enroll
	switch own := e.Cert != "" || e.Key != ""; {
	case own && e.Upstream != "":
		c.add("enroll.upstream", "cannot be used with enroll.cert: either this server signs, or another one does")
	case own:
		c.required("enroll.cert", e.Cert)
		c.required("enroll.key", e.Key)
	case e.Upstream != "":
		c.url("enroll.upstream", e.Upstream, "https")
	case s.Inner.FactoryCA != "":
		c.add("inner.factory_ca", "is for enrollment: name in enroll who signs")
	case e.Tokens != "":
		c.add("enroll.tokens", "there is nobody who signs: set enroll.cert and enroll.key, or enroll.upstream")
	}
	if (e.UpstreamCert == "") != (e.UpstreamKey == "") {
		c.required("enroll.upstream_cert", e.UpstreamCert)
		c.required("enroll.upstream_key", e.UpstreamKey)
	}
	c.notNegative("enroll.lifetime", int64(e.Lifetime))
	if e.Lifetime > 0 && e.Lifetime < time.Minute {
		c.add("enroll.lifetime", "must be at least 1m: devices renew when two thirds of it are over")
	}
	if _, taken := s.Services[serviceHTTP]; taken && s.Enrolls() {
		c.add("services."+serviceHTTP, "cannot be used with enroll, which is answered there: give the service another name")
	}
}

// CA loads the authority that the server signs with, and nil when it is another
// that signs.
func (e *Enroll) CA() (*pki.CA, error) {
	if e.Cert == "" {
		return nil, nil
	}
	if _, err := loadPair(e.Cert, e.Key, "it is the ca.pem with the ca-key.pem that \"atls-ws pki init\" made, or a CA below it"); err != nil {
		return nil, err
	}
	ca, err := pki.ReadCA(e.Cert, e.Key)
	if err != nil {
		return nil, &FileError{File: e.Cert, Err: err, Next: "name a CA certificate"}
	}
	return ca, nil
}

// FactoryCAs loads the authorities of factory certificates.
func (s *Server) FactoryCAs() ([]*x509.Certificate, error) {
	if s.Inner.FactoryCA == "" {
		return nil, nil
	}
	certs, err := loadAnchors(s.Inner.FactoryCA, time.Now())
	if err != nil {
		return nil, &FileError{File: s.Inner.FactoryCA, Err: err, Next: "get the CAs of the devices' factory certificates, with their roots, from the maker"}
	}
	return certs, nil
}

// UpstreamTLS loads the files of the connection to the EST server.
func (e *Enroll) UpstreamTLS() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	var pair, roots error
	if e.UpstreamCert != "" {
		var cert tls.Certificate
		cert, pair = loadPair(e.UpstreamCert, e.UpstreamKey, "get one from the operator of the EST server")
		c.Certificates = []tls.Certificate{cert}
	}
	if e.UpstreamCA != "" {
		c.RootCAs, roots = loadPool(e.UpstreamCA, "get it from the operator of the EST server", nil)
	}
	return c, errors.Join(pair, roots)
}

// EnrollToken lets one device enroll. Sum is of the token.
type EnrollToken struct {
	Device  string
	Sum     [32]byte // SHA-256
	Expires time.Time
}

// String is the token as a line of the file.
func (t EnrollToken) String() string {
	return fmt.Sprintf("%s sha256:%x %s", t.Device, t.Sum, t.Expires.UTC().Format(time.RFC3339))
}

// ReadTokens reads a file of tokens: on each line the device's id, sha256: with the
// sum of the token in hex, and when it ends (RFC 3339). # begins a comment.
func ReadTokens(file string) ([]EnrollToken, error) {
	data, err := readFile(file, "make one with \"atls-ws pki token ID\"")
	if err != nil {
		return nil, err
	}
	return parseTokens(data, file)
}

func parseTokens(data []byte, file string) (all []EnrollToken, err error) {
	lines := bufio.NewScanner(bytes.NewReader(data))
	var found Problems
	for n := 1; lines.Scan(); n++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		f := strings.Fields(text)
		if len(f) == 0 {
			continue
		}
		t, err := parseToken(f)
		if err != nil {
			found = append(found, Problem{File: file, Line: n, Text: err.Error()})
		}
		all = append(all, t)
	}
	if err := lines.Err(); err != nil {
		found = append(found, Problem{File: file, Text: err.Error()})
	}
	return all, found.err()
}

func parseToken(f []string) (t EnrollToken, err error) {
	if len(f) != 3 {
		return t, errors.New("want ID sha256:SUM TIME")
	}
	if err := pki.CheckID(f[0]); err != nil {
		return t, err
	}
	text, ok := strings.CutPrefix(f[1], "sha256:")
	sum, err := hex.DecodeString(text)
	if !ok || err != nil || len(sum) != len(t.Sum) {
		return t, errors.New("the second word is not sha256: and the sum of a token in hex")
	}
	if t.Expires, err = time.Parse(time.RFC3339, f[2]); err != nil {
		return t, errors.New("the third word is not a time such as 2030-01-02T15:04:05Z")
	}
	t.Device, t.Sum = f[0], [32]byte(sum)
	return t, nil
}

// checkEnroll loads what Enroll names.
func (s *Server) checkEnroll() error {
	_, ca := s.Enroll.CA()
	_, factory := s.FactoryCAs()
	_, up := s.Enroll.UpstreamTLS()
	var tokens error
	if s.Enroll.Tokens != "" {
		_, tokens = ReadTokens(s.Enroll.Tokens)
	}
	return errors.Join(ca, factory, up, tokens)
}

// DeviceEnroll says how a device comes by its certificate.
type DeviceEnroll struct {
	// On lets the device get inner.cert and inner.key from the server when they
	// are not there, and renew them.
	On bool `yaml:"on"`
	// Device is the id to ask for. Empty: that of the certificate that it shows.
	Device string `yaml:"device"`
	// Token is the file of a one-time token, for a device without a factory
	// certificate.
	Token string `yaml:"token"`
	// FactoryCert and FactoryKey are the PEM files of the factory certificate.
	FactoryCert string `yaml:"factory_cert"`
	FactoryKey  string `yaml:"factory_key"`
}

func (c *check) deviceEnroll(d *Device) {
	e := d.Enroll
	if (e.FactoryCert == "") != (e.FactoryKey == "") {
		c.required("enroll.factory_cert", e.FactoryCert)
		c.required("enroll.factory_key", e.FactoryKey)
	}
	if e.Device != "" {
		c.addErr("enroll.device", pki.CheckID(e.Device))
	}
	if !e.On {
		return
	}
	if e.Token != "" && e.FactoryCert == "" && e.Device == "" {
		c.add("enroll.device", "missing: a token is for one device id")
	}
	if d.Inner.Cert != "" && d.Inner.Cert == d.Inner.Key {
		c.add("inner.key", "must be another file than inner.cert: both are written")
	}
}

// EnrollTLS is TLS without the device's certificate.
func (d *Device) EnrollTLS() (*tls.Config, error) {
	roots, err := loadPool(d.Inner.CA, nextCA, nil)
	if err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: d.Inner.ServerName}, nil
}

// Secret loads what the device shows when it enrolls: its factory certificate, or
// nil, and its token, or nothing. A token's file may be gone once it was used.
func (e *DeviceEnroll) Secret() (*tls.Certificate, string, error) {
	var factory *tls.Certificate
	if e.FactoryCert != "" {
		cert, err := loadPair(e.FactoryCert, e.FactoryKey, "it is what the device was made with")
		if err != nil {
			return nil, "", err
		}
		factory = &cert
	}
	if e.Token == "" {
		return factory, "", nil
	}
	data, err := readFile(e.Token, "")
	if fe := (*FileError)(nil); errors.As(err, &fe) && errors.Is(fe.Err, errNotThere) {
		return factory, "", nil
	}
	return factory, strings.TrimSpace(string(data)), err
}

// checkTLS loads what the device starts with: its certificate, or what it gets
// one by.
func (d *Device) checkTLS() error {
	if !d.Enroll.On || exists(d.Inner.Cert) {
		_, err := d.TLS()
		return err
	}
	_, rootsErr := d.EnrollTLS()
	factory, token, err := d.Enroll.Secret()
	if err == nil && factory == nil && token == "" {
		err = &FileError{File: d.Inner.Cert, Err: errors.New("is not there yet, and there is neither a token nor a factory certificate to get it by"),
			Next: "name a file with --enroll-token: the service's operator makes one with \"atls-ws pki token ID\""}
	}
	return errors.Join(rootsErr, err)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
