//go:build e2e

package e2e

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/pki"
	"github.com/atls-ws/atls-ws/server"
	"github.com/atls-ws/atls-ws/wsconn"
)

// TestRefusalNamesCauseOnBothSides: certificates that must not be accepted,
// between the two real programs.
func TestRefusalNamesCauseOnBothSides(t *testing.T) {
	other := newCA(t, "Rogue CA")
	for _, tc := range []struct {
		name           string
		change         func(s *site)
		device, server []string // words of the message of each side
	}{
		{"device certificate of another authority", func(s *site) { s.pair("device")(other.Device(deviceID, 0)) },
			[]string{"certificate authority", "peer refused"}, []string{"certificate signed by unknown authority"}},
		{"device trusts another authority", func(s *site) { s.write(other.Write(s.file("pki"), true)) },
			[]string{"inner handshake", "certificate signed by unknown authority"}, []string{"peer refused", "bad certificate"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSite(t).serve(true)
			tc.change(s)
			r := run(t, nil, s.deviceArgs("wss://"+s.addr+path, "--once")...)
			r.fails(t, 1, tc.device...)
			await(t, s.server, append(tc.server, "inner handshake")...)
			if out := must(t, nil, "devices", "--json", "--admin", s.admin()); strings.Contains(string(out), deviceID) {
				t.Errorf("the refused device is listed: %s", out)
			}
		})
	}
}

// TestMiddleboxOnInnerHandshakeIsRefused: a box that takes the carrier and
// presents a certificate of its own for the inner name too.
func TestMiddleboxOnInnerHandshakeIsRefused(t *testing.T) {
	s := newSite(t)
	forged, err := newCA(t, "Box CA").Server([]string{pki.ServerName}, 0)
	s.write(err)
	cert, err := forged.TLS()
	s.write(err)
	boxSays := make(chan error, 1) // to the WebSocket; POST it does not take
	b := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := wsconn.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		inner := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"atls-mux/1"}})
		_ = inner.SetDeadline(time.Now().Add(patience))
		_, err = inner.Read(make([]byte, 1)) // TLS 1.3: the client's verdict comes here at the latest
		boxSays <- err
	}))
	defer b.Close()
	r := run(t, nil, s.deviceArgs("wss://"+b.Listener.Addr().String()+path, "--once")...)
	r.fails(t, 1, "inner handshake", "certificate signed by unknown authority")
	select {
	case err := <-boxSays:
		if err == nil || !strings.Contains(err.Error(), "bad certificate") {
			t.Errorf("the box was told %v, want bad certificate", err)
		}
	case <-bounded(t).Done():
		t.Error("the box was told nothing")
	}
}

// TestExpiredDeviceCertificateIsRefused: the device's program says so before it
// connects, and the server when a device connects all the same.
func TestExpiredDeviceCertificateIsRefused(t *testing.T) {
	s := newSite(t).serve(true)
	s.pair("device")(s.ca.Device(deviceID, -time.Hour))
	run(t, nil, s.deviceArgs("wss://"+s.addr+path, "--once")...).fails(t, 1, "expired", "device.pem")

	_, err := client.Dial(bounded(t), &client.Config{URL: "wss://" + s.addr, TLS: s.innerTLS()})
	if err == nil || !strings.Contains(err.Error(), "expired certificate") {
		t.Errorf("the client's error is %v, want an expired certificate", err)
	}
	await(t, s.server, "inner handshake", "certificate has expired")
}

// TestExpiredServerCertificateIsRefused, likewise for the service's.
func TestExpiredServerCertificateIsRefused(t *testing.T) {
	s := newSite(t)
	s.pair("server")(s.ca.Server(nil, -time.Hour))
	run(t, nil, s.serverArgs(true)...).fails(t, 1, "expired", "server.pem")

	p, err := pki.ReadPair(s.file("pki"), "server")
	s.write(err)
	cert, err := p.TLS()
	s.write(err)
	refused := make(chan error, 1)
	srv, err := server.New(&server.Config{
		TLS:   &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: s.ca.Pool()},
		Hooks: server.Hooks{Refused: func(_ string, err error) { refused <- err }},
	})
	s.write(err)
	web := httptest.NewTLSServer(srv)
	defer web.Close()
	defer func() { _ = srv.Close() }()
	r := run(t, nil, s.deviceArgs("wss://"+web.Listener.Addr().String()+path, "--once")...)
	r.fails(t, 1, "inner handshake", "certificate has expired")
	select {
	case err := <-refused:
		contains(t, err.Error(), "inner handshake", "certificate")
	case <-bounded(t).Done():
		t.Error("the server says nothing")
	}
}

// innerTLS is the device's inner configuration, taken from the files as they
// are, expired or not.
func (s *site) innerTLS() *tls.Config {
	s.t.Helper()
	p, err := pki.ReadPair(s.file("pki"), "device")
	s.write(err)
	cert, err := p.TLS()
	s.write(err)
	return &tls.Config{RootCAs: s.ca.Pool(), ServerName: pki.ServerName, Certificates: []tls.Certificate{cert}}
}

// innerDial is a raw inner connection: what is above it is the test's.
func (s *site) innerDial(ctx context.Context) *tls.Conn {
	s.t.Helper()
	carrier, err := wsconn.Dial(ctx, "wss://"+s.addr+path, &wsconn.DialOptions{TLS: &tls.Config{RootCAs: s.outer.Pool()}})
	s.write(err)
	s.t.Cleanup(func() { _ = carrier.Close() })
	conf := s.innerTLS()
	conf.NextProtos = []string{"atls-mux/1"}
	return tls.Client(carrier, conf)
}
