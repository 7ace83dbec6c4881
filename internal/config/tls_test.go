package config

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/internal/pki"
)

// newPKI makes a folder with a CA, a server pair and the pair of device d.
func newPKI(t *testing.T, validity time.Duration) string {
	t.Helper()
	dir := t.TempDir()
	ca, err := pki.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	server, err := ca.Server(nil, validity)
	if err != nil {
		t.Fatal(err)
	}
	device, err := ca.Device("d", validity)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(ca.Write(dir, false), server.Write(dir, pki.ServerFile, false),
		device.Write(dir, pki.DeviceFile("d"), false)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func device(dir string) *Device {
	d := DefaultDevice()
	d.URL = "https://h"
	d.Inner.Cert, d.Inner.Key = pki.CertPath(dir, "device-d"), pki.KeyPath(dir, "device-d")
	d.Inner.CA = pki.CertPath(dir, pki.CAFile)
	return d
}

func server(dir string) *Server {
	s := DefaultServer()
	s.Inner.Cert, s.Inner.Key = pki.CertPath(dir, pki.ServerFile), pki.KeyPath(dir, pki.ServerFile)
	s.Inner.ClientCA = pki.CertPath(dir, pki.CAFile)
	return s
}

func TestTLSOfBothRoles(t *testing.T) {
	dir := newPKI(t, 0)
	c, err := device(dir).TLS()
	if err != nil {
		t.Fatal(err)
	}
	if c.MinVersion != tls.VersionTLS13 || c.ServerName != "atls-ws" || c.RootCAs == nil || len(c.Certificates) != 1 || c.InsecureSkipVerify {
		t.Errorf("device: %+v", c)
	}
	s := server(dir)
	if c, err = s.TLS(); err != nil {
		t.Fatal(err)
	}
	if c.MinVersion != tls.VersionTLS13 || c.ClientAuth != tls.RequireAndVerifyClientCert || c.ClientCAs == nil || len(c.Certificates) != 1 {
		t.Errorf("server: %+v", c)
	}
	s.Outer = ServerOuter{Cert: s.Inner.Cert, Key: s.Inner.Key}
	if c, err = s.OuterTLS(); err != nil || len(c.NextProtos) != 1 || c.NextProtos[0] != "http/1.1" {
		t.Errorf("outer: %+v, %v", c, err)
	}
	if err := errors.Join(device(dir).Check(), s.Check()); err != nil {
		t.Error(err)
	}
}

func TestBadFilesNameTheFileAndTheNextStep(t *testing.T) {
	dir, other, expired := newPKI(t, 0), newPKI(t, 0), newPKI(t, -time.Hour)
	junk := write(t, "junk.pem", "hello\n")
	bad := write(t, "bad.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
	tests := []struct {
		name   string
		change func(*Device)
		file   func(*Device) string
		want   []string
	}{
		{"no certificate", func(d *Device) { d.Inner.Cert = filepath.Join(dir, "none.pem") },
			func(d *Device) string { return d.Inner.Cert }, []string{"no such file", "atls-ws pki device"}},
		{"no key", func(d *Device) { d.Inner.Key = filepath.Join(dir, "none.pem") },
			func(d *Device) string { return d.Inner.Key }, []string{"no such file"}},
		{"no CA", func(d *Device) { d.Inner.CA = filepath.Join(dir, "none.pem") },
			func(d *Device) string { return d.Inner.CA }, []string{"no such file", "atls-ws pki init"}},
		{"not PEM", func(d *Device) { d.Inner.Cert = junk },
			func(d *Device) string { return junk }, []string{`has no PEM block "CERTIFICATE"`}},
		{"not a certificate", func(d *Device) { d.Inner.CA = bad },
			func(d *Device) string { return bad }, []string{"x509"}},
		{"swapped", func(d *Device) { d.Inner.Cert, d.Inner.Key = d.Inner.Key, d.Inner.Cert },
			func(d *Device) string { return d.Inner.Cert }, []string{`has no PEM block "CERTIFICATE"`, `has no PEM block "PRIVATE KEY"`}},
		{"another's key", func(d *Device) { d.Inner.Key = pki.KeyPath(other, "device-d") },
			func(d *Device) string { return d.Inner.Cert }, []string{"does not match", pki.KeyPath(other, "device-d"), "name the key"}},
		{"expired", func(d *Device) {
			d.Inner.Cert, d.Inner.Key = pki.CertPath(expired, "device-d"), pki.KeyPath(expired, "device-d")
		},
			func(d *Device) string { return d.Inner.Cert },
			[]string{"expired on " + time.Now().Add(-time.Hour).UTC().Format("2006-01-02T15"), "atls-ws pki device"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := device(dir)
			tt.change(d)
			_, err := d.TLS()
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range append(tt.want, tt.file(d), "\n") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v\nlacks %q", err, want)
				}
			}
			var fe *FileError
			if !errors.As(err, &fe) || fe.Next == "" {
				t.Errorf("no next step: %v", err)
			}
			var ee *ExpiredError
			if errors.As(err, &ee) != (tt.name == "expired") {
				t.Errorf("ExpiredError: %v", ee)
			}
			if check := d.Check(); check == nil || check.Error() != err.Error() {
				t.Errorf("Check says %v", check)
			}
		})
	}
}

func TestServerReportsAllFilesAtOnce(t *testing.T) {
	s := DefaultServer()
	s.Inner = ServerInner{Cert: "/none/a", Key: "/none/b", ClientCA: "/none/c"}
	s.Outer = ServerOuter{Cert: "/none/d", Key: "/none/e"}
	err := s.Check()
	for _, f := range []string{"/none/a", "/none/b", "/none/c", "/none/d", "/none/e"} {
		if err == nil || !strings.Contains(err.Error(), f+": no such file\n") {
			t.Errorf("%s is not reported: %v", f, err)
		}
	}
}

func TestNotYetValidBlamesTheClock(t *testing.T) {
	from := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	c := &x509.Certificate{NotBefore: from, NotAfter: from.Add(time.Hour)}
	err := checkDates(c, from.Add(-time.Second))
	if err == nil || !strings.Contains(err.Error(), "not valid before 2030-01-01T00:00:00Z, and the clock says 2029-12-31T23:59:59Z") {
		t.Error(err)
	}
	if err := checkDates(c, from); err != nil {
		t.Error(err)
	}
}

func TestExpiredAuthorities(t *testing.T) {
	dir := newPKI(t, -time.Hour)
	d := device(dir)
	d.Outer.Roots = d.Inner.Cert // any expired certificate
	if _, err := d.OuterRoots(); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Error(err)
	}
}

func TestOuterRootsAddToTheSystems(t *testing.T) {
	d := device(newPKI(t, 0))
	if pool, err := d.OuterRoots(); pool != nil || err != nil {
		t.Errorf("no file: %v, %v", pool, err)
	}
	d.Outer.Roots = d.Inner.CA
	pool, err := d.OuterRoots()
	if err != nil {
		t.Fatal(err)
	}
	certPEM, err := os.ReadFile(d.Inner.CA)
	if err != nil {
		t.Fatal(err)
	}
	want, err := x509.SystemCertPool()
	if err != nil {
		want = x509.NewCertPool()
	}
	want.AppendCertsFromPEM(certPEM)
	if !pool.Equal(want) {
		t.Error("not the system's authorities and the file's")
	}
	inner, err := d.TLS()
	if err != nil || inner.RootCAs.Equal(pool) {
		t.Errorf("the outer roots are trusted inside: %v", err)
	}
}

func TestProxyFunc(t *testing.T) {
	r := &http.Request{URL: &url.URL{Scheme: "https", Host: "h"}}
	for proxy, want := range map[string]string{ProxyDirect: "", "http://u:p@p:1": "http://u:p@p:1"} {
		d := Device{Proxy: proxy}
		f, err := d.ProxyFunc()
		if err != nil {
			t.Fatal(err)
		}
		u, err := f(r)
		if got := ""; err != nil || u != nil && u.String() != want || u == nil && want != got {
			t.Errorf("%q: %v, %v", proxy, u, err)
		}
	}
	if f, err := (&Device{}).ProxyFunc(); f == nil || err != nil {
		t.Errorf("environment: %v", err)
	}
	if _, err := (&Device{Proxy: "http://u:secret@h\x01"}).ProxyFunc(); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("bad proxy: %v", err)
	}
}

func TestIdentify(t *testing.T) {
	uri, err := url.Parse(pki.DeviceURN + "d1")
	if err != nil {
		t.Fatal(err)
	}
	full := &x509.Certificate{
		URIs: []*url.URL{uri}, DNSNames: []string{"d2", "x"},
		Subject: pkix.Name{SerialNumber: "d3", CommonName: "d4"},
	}
	for from, want := range map[string]string{IdentityURI: "d1", IdentityDNS: "d2", IdentitySerial: "d3", IdentityCN: "d4"} {
		identify := (&Server{Inner: ServerInner{Identity: from}}).Identify()
		id, err := identify(tls.ConnectionState{PeerCertificates: []*x509.Certificate{full}})
		if id != want || err != nil {
			t.Errorf("%s: %q, %v", from, id, err)
		}
		if _, err := identify(tls.ConnectionState{PeerCertificates: []*x509.Certificate{{}}}); err == nil || !strings.Contains(err.Error(), from) {
			t.Errorf("%s of a nameless certificate: %v", from, err)
		}
		if _, err := identify(tls.ConnectionState{}); err == nil {
			t.Errorf("%s: no certificate is accepted", from)
		}
	}
	if (&Server{}).Identify() != nil {
		t.Error("an empty identity is not left to the server package")
	}
}
