package server_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/est"
	"github.com/atls-ws/atls-ws/internal/middlebox"
	"github.com/atls-ws/atls-ws/internal/pki"
	"github.com/atls-ws/atls-ws/server"
)

func TestDeviceEnrollsByFactoryCertificateOrTokenAndConnects(t *testing.T) {
	for name, set := range map[string]func(*plant, *client.EnrollOptions){
		"factory": func(p *plant, o *client.EnrollOptions) { o.Factory = p.idevid("pump-7") },
		"token":   func(_ *plant, o *client.EnrollOptions) { o.Token, o.Device = "one-time", "pump-7" },
	} {
		for _, carrier := range []client.Carrier{client.CarrierWebSocket, client.CarrierPOST} {
			t.Run(name+" "+string(carrier), func(t *testing.T) {
				p := newPlant(t, nil)
				o, c := p.files(), p.bare()
				c.Carrier = carrier
				set(p, o)
				e, err := p.enroll(c, o)
				if err != nil {
					t.Fatal(err)
				}
				leaf := e.Certificate().Leaf
				if leaf.Subject.CommonName != "pump-7" || time.Until(leaf.NotAfter) > time.Hour {
					t.Errorf("%v, until %v", leaf.Subject, leaf.NotAfter)
				}
				if info, err := os.Stat(o.KeyFile); err != nil || info.Mode().Perm() != 0o600 {
					t.Errorf("key: %v, %v", info, err)
				}
				c.TLS.GetClientCertificate = e.GetClientCertificate
				if s := p.dial(t, c); s.Device() != "pump-7" {
					t.Errorf("connected as %q", s.Device())
				}
				left, err := os.ReadDir(p.dir)
				if err != nil || len(left) != 2 {
					t.Errorf("files: %v, %v", left, err)
				}
				// The next start finds the certificate and asks nobody.
				again := p.files()
				c = p.bare()
				c.URL = "https://127.0.0.1:1"
				if e, err := p.enroll(c, again); err != nil || !e.Certificate().Leaf.Equal(leaf) {
					t.Errorf("again: %v", err)
				}
			})
		}
	}
}

func TestRenewalChangesTheCertificateAndLeavesTheSession(t *testing.T) {
	p := newPlant(t, nil)
	p.auth.validity = 4 * time.Second
	o, c := p.files(), p.bare()
	o.Token, o.Device = "one-time", "pump-7"
	e, err := p.enroll(c, o)
	if err != nil {
		t.Fatal(err)
	}
	first := e.Certificate().Leaf
	c.TLS.GetClientCertificate = e.GetClientCertificate
	s := p.dial(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	var keeping sync.WaitGroup
	keeping.Go(func() { _ = e.Keep(ctx) })
	defer keeping.Wait()
	defer cancel()
	for e.Certificate().Leaf.Equal(first) {
		if ctx.Err() != nil {
			t.Fatal("not renewed")
		}
		time.Sleep(20 * time.Millisecond)
	}
	if now := time.Now(); now.Before(first.NotAfter.Add(-2*time.Second)) || now.After(first.NotAfter) {
		t.Errorf("renewed at %v of %v to %v", now, first.NotBefore, first.NotAfter)
	}
	leaf := e.Certificate().Leaf
	if leaf.PublicKey.(*ecdsa.PublicKey).Equal(first.PublicKey) {
		t.Error("with the same key")
	}
	if s.Err() != nil {
		t.Errorf("the session ended: %v", s.Err())
	}
	seen := make(chan *x509.Certificate, 1)
	c.TLS.GetClientCertificate = func(i *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		got, err := e.GetClientCertificate(i)
		seen <- got.Leaf
		return got, err
	}
	if s := p.dial(t, c); s.Device() != "pump-7" || (<-seen).Equal(first) {
		t.Errorf("connected as %q, with the old certificate", s.Device())
	}
}

func TestTokenIsForOneDeviceAndOneKey(t *testing.T) {
	p := newPlant(t, nil)
	o := p.files()
	for _, wrong := range []client.EnrollOptions{{Device: "pump-7", Token: "guessed"}, {Device: "pump-8", Token: "one-time"}} {
		w := *o
		w.Device, w.Token = wrong.Device, wrong.Token
		var no *client.EnrollError
		if _, err := p.enroll(p.bare(), &w); !errors.As(err, &no) || no.StatusCode != http.StatusUnauthorized {
			t.Errorf("%+v: %v", wrong, err)
		}
	}
	// An answer that does not arrive: the same device asks with the same key.
	o.Device, o.Token = "pump-7", "one-time"
	p.auth.issue = func(*server.EnrollRequest) ([]*x509.Certificate, error) { return nil, errors.New("out of order") }
	var no *client.EnrollError
	if _, err := p.enroll(p.bare(), o); !errors.As(err, &no) || no.StatusCode != http.StatusServiceUnavailable || no.RetryAfter == 0 || strings.Contains(err.Error(), "out of order") {
		t.Errorf("without the authority: %v", err)
	}
	p.auth.issue = nil
	if _, err := p.enroll(p.bare(), o); err != nil {
		t.Fatal(err)
	}
	other := *o
	other.CertFile, other.KeyFile = filepath.Join(p.dir, "e.pem"), filepath.Join(p.dir, "e-key.pem")
	if _, err := p.enroll(p.bare(), &other); !errors.As(err, &no) || no.StatusCode != http.StatusUnauthorized {
		t.Errorf("the token works twice: %v", err)
	}
}

func TestFactoryCertificateIsForEnrolmentAlone(t *testing.T) {
	p := newPlant(t, nil)
	c := p.bare()
	c.TLS.Certificates = []tls.Certificate{*p.idevid("pump-7")}
	if s, err := client.Dial(t.Context(), c); err == nil {
		t.Errorf("a session as %q", s.Device())
	} else if !strings.Contains(err.Error(), "enrollment alone") {
		t.Error(err)
	}
	if n := p.srv.Registry().Len(); n != 0 {
		t.Errorf("%d devices", n)
	}
	for name, certs := range map[string][]tls.Certificate{"factory": {*p.idevid("pump-7")}, "none": nil} {
		conn := p.guestConn(t, certs)
		for path, want := range map[string]int{
			"/": http.StatusForbidden, "/.well-known/est/cacerts": http.StatusForbidden, "/.well-known/est/device/cacerts": http.StatusOK,
			"/.well-known/est/device/csrattrs": http.StatusOK, "/.well-known/est/device/x": http.StatusNotFound, "/.well-known/est/device/../x": http.StatusNotFound,
		} {
			if got, body := conn.get(t, http.MethodGet, path, ""); got != want {
				t.Errorf("%s: %s: %d %s", name, path, got, body)
			}
		}
	}
	if _, err := p.enroll(p.bare(), p.files()); !errors.Is(err, client.ErrNoIdentity) {
		t.Errorf("with nothing to show: %v", err)
	}
	// A peer of atls-mux/1 has a certificate, whatever is offered besides.
	c = p.bare()
	c.TLS.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return new(tls.Certificate), nil }
	if _, err := client.Dial(t.Context(), c); err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("a session without a certificate: %v", err)
	}
}

// guestConn is a connection of atls-http/1.
type guestConn struct {
	*tls.Conn
	r *bufio.Reader
}

func (c *guestConn) get(t *testing.T, method, path, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, "http://x"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if err := req.Write(c); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(c.r, req)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestCertificateRequestsThatAreRefused(t *testing.T) {
	p := newPlant(t, func(c *server.Config) {
		c.Enrollment.Allow = func(_ context.Context, r *server.EnrollRequest) error {
			if r.Device != "pump-7" || r.By != server.ByFactory {
				return errors.New("not on the list")
			}
			return nil
		}
	})
	conn := p.guestConn(t, []tls.Certificate{*p.idevid("pump-7")})
	key := newKey(t)
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	csr := func(template *x509.CertificateRequest, key any) []byte {
		der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	named := func(cn string) *x509.CertificateRequest {
		return &x509.CertificateRequest{Subject: pkix.Name{CommonName: cn}}
	}
	good := csr(named("pump-7"), key)
	forged := append([]byte(nil), good...)
	forged[len(forged)-1] ^= 1
	ou := named("pump-7")
	ou.Subject.OrganizationalUnit = []string{"Admins"}
	dns := named("pump-7")
	dns.DNSNames = []string{"pump-8"}
	uri := named("")
	uri.URIs = []*url.URL{{Scheme: "urn", Opaque: "atls-ws:device:pump-8"}}
	ca := named("pump-7")
	ca.ExtraExtensions = []pkix.Extension{{Id: []int{2, 5, 29, 19}, Value: []byte{0x30, 3, 1, 1, 0xff}}}
	for name, c := range map[string]struct {
		path, body string
		want       int
	}{
		"another id":            {est.Enroll, string(est.EncodeCSR(csr(named("pump-8"), key))), 403},
		"a group":               {est.Enroll, string(est.EncodeCSR(csr(ou, key))), 403},
		"another DNS name":      {est.Enroll, string(est.EncodeCSR(csr(dns, key))), 403},
		"another URI":           {est.Enroll, string(est.EncodeCSR(csr(uri, key))), 403},
		"to be a CA":            {est.Enroll, string(est.EncodeCSR(csr(ca, key))), 403},
		"a small key":           {est.Enroll, string(est.EncodeCSR(csr(named("pump-7"), small))), 400},
		"a forged one":          {est.Enroll, string(est.EncodeCSR(forged)), 400},
		"not base64":            {est.Enroll, string(good), 400},
		"nothing":               {est.Enroll, "", 400},
		"too long":              {est.Enroll, strings.Repeat("A", est.MaxCSR+1), 400},
		"renewal by a stranger": {est.Reenroll, string(est.EncodeCSR(good)), 403},
	} {
		if got, body := conn.get(t, http.MethodPost, est.DevicePath+c.path, c.body); got != c.want {
			t.Errorf("%s: %d %s", name, got, body)
		}
	}
	if got, body := conn.get(t, http.MethodGet, est.DevicePath+est.Enroll, ""); got != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d %s", got, body)
	}
	if got, body := conn.get(t, http.MethodPost, est.DevicePath+est.Enroll, string(est.EncodeCSR(good))); got != http.StatusOK {
		t.Errorf("a good one: %d %s", got, body)
	}
	var no *client.EnrollError
	o := p.files()
	o.Factory = p.idevid("pump-8")
	if _, err := p.enroll(p.bare(), o); !errors.As(err, &no) || no.StatusCode != http.StatusForbidden || no.Text != "not on the list" {
		t.Errorf("not allowed: %v", err)
	}
	o.Factory = p.idevid("pump 8")
	if _, err := p.enroll(p.bare(), o); err == nil {
		t.Error("an id that is none")
	}
}

func TestWhoIsNotAdmittedGetsNoCertificate(t *testing.T) {
	var refused atomic.Bool
	p := newPlant(t, func(c *server.Config) {
		c.Admit = func(device string, _ tls.ConnectionState) error {
			if device != "pump-7" {
				t.Errorf("asked about %q", device)
			}
			if refused.Load() {
				return errors.New("the operators have denied it")
			}
			return nil
		}
	})
	refused.Store(true)
	for name, set := range map[string]func(*client.EnrollOptions){
		"factory": func(o *client.EnrollOptions) { o.Factory = p.idevid("pump-7") },
		"token":   func(o *client.EnrollOptions) { o.Device, o.Token = "pump-7", "one-time" },
	} {
		o := p.files()
		set(o)
		var no *client.EnrollError
		if _, err := p.enroll(p.bare(), o); !errors.As(err, &no) || no.StatusCode != http.StatusForbidden || no.Text != "the operators have denied it" {
			t.Errorf("%s: %v", name, err)
		}
	}
	refused.Store(false)
	conn := p.guestConn(t, []tls.Certificate{*p.idevid("pump-7")})
	if got, _ := conn.get(t, http.MethodGet, est.DevicePath+est.CACerts, ""); got != http.StatusOK {
		t.Error(got)
	}
	p.srv.Recheck() // asks about no guest
	if got, _ := conn.get(t, http.MethodGet, est.DevicePath+est.CACerts, ""); got != http.StatusOK {
		t.Error(got)
	}
}

func TestWhatTheAuthorityGivesIsCheckedBeforeTheDeviceGetsIt(t *testing.T) {
	p := newPlant(t, nil)
	other, err := pki.NewCA("Another")
	if err != nil {
		t.Fatal(err)
	}
	o := p.files()
	o.Factory = p.idevid("pump-7")
	for name, issue := range map[string]func(*server.EnrollRequest) (*x509.Certificate, error){
		"another device's": func(r *server.EnrollRequest) (*x509.Certificate, error) {
			return p.ca.Sign("pump-8", r.CSR.PublicKey, time.Hour)
		},
		"another key's": func(*server.EnrollRequest) (*x509.Certificate, error) {
			return p.ca.Sign("pump-7", newKey(t).Public(), time.Hour)
		},
		"another authority's": func(r *server.EnrollRequest) (*x509.Certificate, error) {
			return other.Sign("pump-7", r.CSR.PublicKey, time.Hour)
		},
	} {
		p.auth.issue = func(r *server.EnrollRequest) ([]*x509.Certificate, error) {
			c, err := issue(r)
			return []*x509.Certificate{c}, err
		}
		var no *client.EnrollError
		if _, err := p.enroll(p.bare(), o); !errors.As(err, &no) || no.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Stat(o.CertFile); !os.IsNotExist(err) {
		t.Errorf("a certificate was written: %v", err)
	}
}

func TestServerWithoutEnrollment(t *testing.T) {
	s := newSite(t, &server.Config{Handler: http.NotFoundHandler()})
	p := &plant{site: s, t: t, dir: t.TempDir()}
	o := p.files()
	o.Device, o.Token = "pump-7", "one-time"
	// The server's alert, or the end of the carrier that overtook it.
	if _, err := p.enroll(p.bare(), o); err == nil {
		t.Error("by a token: enrolled")
	}
	c := p.config(t, "pump-7")
	o.Factory = &c.TLS.Certificates[0]
	if _, err := p.enroll(p.bare(), o); !errors.Is(err, client.ErrNoEnrollment) {
		t.Errorf("by a certificate: %v", err)
	}
}

func TestDeviceEnrollsThroughAMiddlebox(t *testing.T) {
	p := newPlant(t, nil)
	box, err := middlebox.Listen("127.0.0.1:0", &middlebox.Config{Record: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = box.Close() })
	for _, carrier := range []client.Carrier{client.CarrierWebSocket, client.CarrierPOST} {
		o, c := p.files(), p.bare()
		o.CertFile, o.KeyFile = o.CertFile+string(carrier), o.KeyFile+string(carrier)
		c.Proxy, c.Carrier = http.ProxyURL(box.URL()), carrier
		o.Factory = p.idevid("pump-7")
		if _, err := p.enroll(c, o); err != nil {
			t.Errorf("%s: %v", carrier, err)
		}
	}
	for _, e := range box.Exchanges() {
		if bytes.Contains(e.Sent, []byte("simpleenroll")) || bytes.Contains(e.Sent, []byte("pump-7")) {
			t.Error("the box could read it")
		}
	}
}
