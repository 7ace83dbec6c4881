package config

import (
	"crypto/tls"
	"net"
	"path/filepath"
	"testing"

	"github.com/atls-ws/atls-ws/internal/pki"
)

// The authority of the nodes may be that of devices and of the server too.
func TestOnlyNodesTalkToNodes(t *testing.T) {
	dir := newPKI(t, 0)
	ca, err := pki.LoadCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b"} {
		pair, err := ca.Node(name, 0)
		if err == nil {
			err = pair.Write(dir, pki.NodeFile(name), false)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	node := func(name string) *tls.Config {
		c := Cluster{Node: name, Cert: pki.CertPath(dir, pki.NodeFile(name)), Key: pki.KeyPath(dir, pki.NodeFile(name)), CA: pki.CertPath(dir, pki.CAFile)}
		conf, err := c.TLS()
		if err != nil {
			t.Fatal(err)
		}
		return conf
	}
	with := func(conf *tls.Config, file string) *tls.Config {
		cert, err := tls.LoadX509KeyPair(filepath.Join(dir, file+".pem"), filepath.Join(dir, file+"-key.pem"))
		if err != nil {
			t.Fatal(err)
		}
		conf.Certificates = []tls.Certificate{cert}
		conf.VerifyConnection = nil // a stranger checks nothing
		conf.InsecureSkipVerify = true
		return conf
	}
	for name, tc := range map[string]struct {
		client, server     *tls.Config
		clientOK, serverOK bool
	}{
		"two nodes":                {node("a"), node("b"), true, true},
		"a device asks":            {with(node("a"), pki.DeviceFile("d")), node("b"), true, false}, // it has sent its last word
		"the server's certificate": {with(node("a"), pki.ServerFile), node("b"), true, false},
		"a device answers":         {node("a"), with(node("b"), pki.DeviceFile("d")), false, false},
		"a server answers":         {node("a"), with(node("b"), pki.ServerFile), false, false},
	} {
		a, b := net.Pipe()
		served := make(chan error, 1)
		go func() {
			c := tls.Server(b, tc.server)
			err := c.Handshake()
			served <- err
			_ = b.Close()
		}()
		c := tls.Client(a, tc.client)
		clientErr := c.Handshake()
		if clientErr == nil {
			_, _ = c.Read(make([]byte, 1)) // takes tickets, or the alert
		}
		_ = a.Close()
		if serverErr := <-served; (clientErr == nil) != tc.clientOK || (serverErr == nil) != tc.serverOK {
			t.Errorf("%s: client %v, server %v", name, clientErr, serverErr)
		}
	}
}
