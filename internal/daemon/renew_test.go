package daemon

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/pki"
)

// A device whose certificate is renewed moves to a session with it: signals go
// through all the time, a stream that is open goes on, and the old certificate
// can then be revoked.
func TestDeviceMovesToItsNewCertificate(t *testing.T) {
	var dir string
	s := startWith(t, func(cfg *config.Server, d string) { dir = d; cfg.Inner.CRL = []string{pki.CRLPath(d)}; writeCRL(t, d) })
	tlsWith := func(pair tls.Certificate) *tls.Config {
		return &tls.Config{RootCAs: s.ca.Pool(), ServerName: pki.ServerName, Certificates: []tls.Certificate{pair}}
	}
	pair := func() tls.Certificate {
		return must[tls.Certificate](t)(must[*pki.Pair](t)(s.ca.Device("d-1", 0)).TLS())
	}
	before, after := pair(), pair()
	c := must[*client.Client](t)(client.New(&client.Config{URL: s.url, TLS: tlsWith(before), Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }}))
	c.OnSignal("yes", func(context.Context, client.Signal) (string, error) { return "", nil })
	echo, err := c.Listen("echo")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { serveEcho(echo) })
	wg.Go(func() { _ = c.Run(ctx) })
	defer wg.Wait()
	defer func() { cancel(); _ = echo.Close() }()
	session := func() string {
		for _, d := range must[[]admin.Device](t)(s.admin.Devices(t.Context())) {
			if d.Device == "d-1" {
				return d.Session
			}
		}
		return ""
	}
	eventually(t, "the session", func() bool { return session() != "" })
	old := session()
	stream, err := dialDevice(t.Context(), s, "d-1", "echo")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stream.Close() }()

	if err := c.Update(tlsWith(after), nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another session", func() bool {
		o, err := s.admin.Push(t.Context(), &admin.Push{Device: "d-1", Name: "yes", Timeout: 10 * time.Second})
		if err != nil || o.State != admin.Acked {
			t.Fatalf("a signal during the move: %+v, %v", o, err)
		}
		return session() != old && session() != ""
	})
	if _, err := stream.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if n, err := stream.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Fatalf("the stream of the old session: %d bytes, %v", n, err)
	}
	now := session()
	if err := s.ca.Revoke(dir, before.Leaf); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of the old session's stream", func() bool {
		_ = stream.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		_, err := stream.Read(make([]byte, 1))
		timeout, ok := err.(interface{ Timeout() bool }) //nolint:errorlint // as net gives it
		return err != nil && (!ok || !timeout.Timeout())
	})
	if session() != now {
		t.Error("the new session ended with the old certificate")
	}
}
