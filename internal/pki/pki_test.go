package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

func newTestCA(t *testing.T) *CA {
	t.Helper()
	ca, err := NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func leafOf(t *testing.T, p *Pair, err error) *x509.Certificate {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	c, err := p.TLS()
	if err != nil {
		t.Fatal(err)
	}
	return c.Leaf
}

func TestServerCertificateVerifiesForItsNames(t *testing.T) {
	ca := newTestCA(t)
	p, err := ca.Server([]string{"a.example", "192.0.2.1"}, 0)
	leaf := leafOf(t, p, err)
	for _, name := range []string{"a.example", "192.0.2.1"} {
		if _, err := leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: ca.Pool()}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := leaf.Verify(x509.VerifyOptions{DNSName: ServerName, Roots: ca.Pool()}); err == nil {
		t.Errorf("verifies for %s, which it was not given", ServerName)
	}
	if leaf := leafOf(t, must(t)(ca.Server(nil, 0)), nil); leaf.VerifyHostname(ServerName) != nil {
		t.Errorf("names by default %v, want %s", leaf.DNSNames, ServerName)
	}
	if _, err := ca.Server([]string{""}, 0); err == nil {
		t.Error("an empty name is accepted")
	}
}

func must(t *testing.T) func(*Pair, error) *Pair {
	return func(p *Pair, err error) *Pair {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
}

func TestDeviceCertificateNamesTheDeviceAndIsAClientsOnly(t *testing.T) {
	ca := newTestCA(t)
	p, err := ca.Device("kettle-7", 0)
	leaf := leafOf(t, p, err)
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != DeviceURN+"kettle-7" {
		t.Errorf("URIs = %v", leaf.URIs)
	}
	client := x509.VerifyOptions{Roots: ca.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if _, err := leaf.Verify(client); err != nil {
		t.Error(err)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: ca.Pool()}); err == nil {
		t.Error("a device certificate passes as a server's")
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: newTestCA(t).Pool(), KeyUsages: client.KeyUsages}); err == nil {
		t.Error("verifies under another CA of the same name")
	}
}

func TestMutualHandshake(t *testing.T) {
	ca := newTestCA(t)
	serverCert, err := must(t)(ca.Server(nil, 0)).TLS()
	if err != nil {
		t.Fatal(err)
	}
	deviceCert, err := must(t)(ca.Device("d", 0)).TLS()
	if err != nil {
		t.Fatal(err)
	}
	a, b := net.Pipe()
	defer func() { _, _ = a.Close(), b.Close() }()
	server := tls.Server(a, &tls.Config{
		Certificates: []tls.Certificate{serverCert}, ClientCAs: ca.Pool(),
		ClientAuth: tls.RequireAndVerifyClientCert, SessionTicketsDisabled: true,
	})
	client := tls.Client(b, &tls.Config{Certificates: []tls.Certificate{deviceCert}, RootCAs: ca.Pool(), ServerName: ServerName})
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	if err := client.Handshake(); err != nil {
		t.Error("client:", err)
	}
	if err := <-done; err != nil {
		t.Error("server:", err)
	}
}

func TestValidity(t *testing.T) {
	ca := newTestCA(t)
	if leaf := leafOf(t, must(t)(ca.Device("d", -time.Minute)), nil); !time.Now().After(leaf.NotAfter) || leaf.NotAfter.Before(leaf.NotBefore) {
		t.Errorf("a negative validity gave %v to %v", leaf.NotBefore, leaf.NotAfter)
	}
	if leaf := leafOf(t, must(t)(ca.Device("d", 2*CAValidity)), nil); leaf.NotAfter.After(ca.Certificate().NotAfter) {
		t.Errorf("ends on %v, after its CA's %v", leaf.NotAfter, ca.Certificate().NotAfter)
	}
}

func TestSelfSigned(t *testing.T) {
	p, err := SelfSigned([]string{"localhost", "127.0.0.1"}, 0)
	leaf := leafOf(t, p, err)
	if leaf.IsCA || leaf.VerifyHostname("127.0.0.1") != nil || leaf.CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate, leaf.Signature) != nil {
		t.Error("not a self-signed server certificate for 127.0.0.1")
	}
	if _, err := SelfSigned(nil, 0); err == nil {
		t.Error("no name is accepted")
	}
}

func TestCheckID(t *testing.T) {
	for _, id := range []string{"a", "0", "device-1", "A.b_c-9", strings.Repeat("x", 64)} {
		if err := CheckID(id); err != nil {
			t.Error(err)
		}
	}
	ca := newTestCA(t)
	for _, id := range []string{"", ".a", "-a", "../x", "a/b", "a b", "a:b", "é", "a\n", strings.Repeat("x", 65)} {
		if CheckID(id) == nil {
			t.Errorf("%q is accepted", id)
		}
		if _, err := ca.Device(id, 0); err == nil {
			t.Errorf("a certificate is issued for %q", id)
		}
	}
}

func TestWriteKeepsKeysPrivateAndReplacesOnlyByForce(t *testing.T) {
	dir := t.TempDir() + "/new/pki"
	ca := newTestCA(t)
	if err := ca.Write(dir, false); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(KeyPath(dir, CAFile)); err != nil || fi.Mode() != 0o600 {
		t.Errorf("key: %v, %v", fi.Mode(), err)
	}
	if err := newTestCA(t).Write(dir, false); !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), CertPath(dir, CAFile)) {
		t.Errorf("second Write: %v, want fs.ErrExist with the file's name", err)
	}
	loaded, err := LoadCA(dir)
	if err != nil || string(loaded.CertPEM()) != string(ca.CertPEM()) {
		t.Fatalf("the first CA was not kept: %v", err)
	}
	second := newTestCA(t)
	if err := second.Write(dir, true); err != nil {
		t.Fatal(err)
	}
	if loaded, err = LoadCA(dir); err != nil || string(loaded.CertPEM()) != string(second.CertPEM()) {
		t.Errorf("force did not replace: %v", err)
	}
	if fi, err := os.Stat(KeyPath(dir, CAFile)); err != nil || fi.Mode() != 0o600 {
		t.Errorf("key after force: %v, %v", fi.Mode(), err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestWriteRefusesALoneKey(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(KeyPath(dir, CAFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := newTestCA(t).Write(dir, false); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Write: %v, want fs.ErrExist", err)
	}
	if _, err := os.Stat(CertPath(dir, CAFile)); err == nil {
		t.Error("a certificate was written beside another key")
	}
}

func TestLoadCARefusesWhatCannotSign(t *testing.T) {
	ca := newTestCA(t)
	if _, err := LoadCA(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("empty folder: %v", err)
	}
	leaf := t.TempDir()
	if err := must(t)(ca.Server(nil, 0)).Write(leaf, CAFile, false); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadCA(leaf); err == nil || !strings.Contains(err.Error(), "not a CA") {
		t.Errorf("leaf: %v", err)
	}
	mixed := t.TempDir()
	if err := ca.Write(mixed, false); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(KeyPath(mixed, CAFile), newTestCA(t).pair.KeyPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadCA(mixed); err == nil || !strings.Contains(err.Error(), "ca.pem") {
		t.Errorf("another key: %v", err)
	}
}
