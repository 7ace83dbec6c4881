package server_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/pki"
	"github.com/atls-ws/atls-ws/server"
)

// authority signs with a pki's CA, unless issue does.
type authority struct {
	ca       *pki.CA
	validity time.Duration
	issue    func(*server.EnrollRequest) ([]*x509.Certificate, error)
}

func (a *authority) CACerts(context.Context) ([]*x509.Certificate, error) {
	return []*x509.Certificate{a.ca.Certificate()}, nil
}

func (a *authority) Issue(_ context.Context, r *server.EnrollRequest) ([]*x509.Certificate, error) {
	if a.issue != nil {
		return a.issue(r)
	}
	c, err := a.ca.Sign(r.Device, r.CSR.PublicKey, a.validity)
	return []*x509.Certificate{c}, err
}

// tokens is one token for one device.
type tokens struct {
	mu            sync.Mutex
	device, token string
	spki          *[32]byte
}

func (k *tokens) use(_ context.Context, device, token string, spki [32]byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if device != k.device || token != k.token || k.spki != nil && *k.spki != spki {
		return errors.New("the token is not this device's, or was used")
	}
	k.spki = &spki
	return nil
}

// plant is a site with enrollment, and the factory's authority.
type plant struct {
	*site
	t       *testing.T
	factory *x509.Certificate
	key     *ecdsa.PrivateKey
	auth    *authority
	tokens  *tokens
	dir     string
}

func newPlant(t *testing.T, change func(*server.Config)) *plant {
	p := &plant{t: t, auth: &authority{validity: time.Hour}, tokens: &tokens{device: "pump-7", token: "one-time"}, dir: t.TempDir()}
	p.key = newKey(t)
	p.factory = p.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "Factory"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, p.key)
	cfg := &server.Config{
		Enrollment: &server.Enrollment{CA: p.auth, Factory: []*x509.Certificate{p.factory}, Token: p.tokens.use},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			device, ok := server.Device(r.Context())
			if !ok {
				t.Error("a guest got to the application")
			}
			_, _ = io.WriteString(w, "application of "+device)
		}),
	}
	if change != nil {
		change(cfg)
	}
	p.site = newSite(t, cfg)
	p.auth.ca = p.ca
	return p
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func (p *plant) sign(c, parent *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	p.t.Helper()
	c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(1), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), p.key)
	if err != nil {
		p.t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		p.t.Fatal(err)
	}
	return c
}

// idevid is a factory certificate.
func (p *plant) idevid(serial string) *tls.Certificate {
	key := newKey(p.t)
	leaf := p.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "Pump", SerialNumber: serial}}, p.factory, key)
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

// bare is a device's configuration without a certificate.
func (p *plant) bare() *client.Config {
	return &client.Config{
		URL: p.web.URL, TLS: &tls.Config{RootCAs: p.ca.Pool(), ServerName: pki.ServerName},
		Proxy: func(*http.Request) (*url.URL, error) { return nil, nil },
	}
}

func (p *plant) files() *client.EnrollOptions {
	return &client.EnrollOptions{CertFile: filepath.Join(p.dir, "d.pem"), KeyFile: filepath.Join(p.dir, "d-key.pem")}
}

func (p *plant) enroll(c *client.Config, o *client.EnrollOptions) (*client.Enrollment, error) {
	ctx, cancel := context.WithTimeout(p.t.Context(), 20*time.Second)
	defer cancel()
	return client.Enroll(ctx, c, o)
}

func (p *plant) guestConn(t *testing.T, certs []tls.Certificate) *guestConn {
	t.Helper()
	raw := carriers["websocket"](t, p.site)
	c := tls.Client(raw, &tls.Config{RootCAs: p.ca.Pool(), ServerName: pki.ServerName, NextProtos: []string{"atls-http/1"}, Certificates: certs})
	return &guestConn{c, bufio.NewReader(c)}
}
