package voucher

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// masa signs vouchers with openssl.
type masa struct {
	t     testing.TB
	dir   string
	roots *x509.CertPool
	owner []byte // DER of the owner's CA
}

func certificate(t testing.TB, name string, isCA bool) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: isCA, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return c, key
}

func newMASA(t testing.TB) *masa {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		withoutOpenSSL(t)
	}
	m := &masa{t: t, dir: t.TempDir(), roots: x509.NewCertPool()}
	c, key := certificate(t, "MASA", true)
	m.roots.AddCert(c)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	m.write("cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	m.write("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	owner, _ := certificate(t, "Owner CA", true)
	m.owner = owner.Raw
	return m
}

func (m *masa) write(name string, data []byte) {
	m.t.Helper()
	if err := os.WriteFile(filepath.Join(m.dir, name), data, 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func (m *masa) sign(content []byte, contentType string) []byte {
	m.t.Helper()
	m.write("content", content)
	cmd := exec.Command("openssl", "cms", "-sign", "-in", "content", "-signer", "cert.pem", "-inkey", "key.pem", "-binary", "-nodetach", "-econtent_type", contentType, "-outform", "DER")
	cmd.Dir = m.dir
	out, err := cmd.Output()
	if err != nil {
		m.t.Fatal(err)
	}
	return out
}

const animaJSON = "1.2.840.113549.1.9.16.1.40"

// voucher is a good one that change spoils; a nil value removes a member.
func (m *masa) voucher(change map[string]any) []byte {
	m.t.Helper()
	v := map[string]any{
		"created-on": time.Now().UTC().Format(time.RFC3339), "expires-on": time.Now().Add(time.Hour).UTC().Format(time.RFC3339),
		"assertion": "logged", "serial-number": "pump-7", "pinned-domain-cert": base64.StdEncoding.EncodeToString(m.owner), "x-unknown": 1,
	}
	for k, c := range change {
		if v[k] = c; c == nil {
			delete(v, k)
		}
	}
	b, err := json.Marshal(map[string]any{"ietf-voucher:voucher": v})
	if err != nil {
		m.t.Fatal(err)
	}
	return m.sign(b, animaJSON)
}

func (m *masa) expected() *Expected {
	return &Expected{MASA: m.roots, Serial: "pump-7", Now: time.Now()}
}

func TestVoucherThatFits(t *testing.T) {
	m := newMASA(t)
	v, err := Open(m.voucher(nil), m.expected())
	if err != nil || v.Pinned.Subject.CommonName != "Owner CA" || v.Assertion != "logged" || v.Expires.IsZero() {
		t.Fatalf("%+v, %v", v, err)
	}
	e := m.expected()
	e.Nonce = []byte("12345678")
	e.IDevIDIssuer = []byte{1, 2, 3}
	for _, issuer := range [][]byte{nil, {1, 2, 3}, {4, 3, 1, 2, 3}, {0x30, 5, 0x80, 3, 1, 2, 3}} {
		change := map[string]any{"nonce": e.Nonce, "expires-on": nil, "domain-cert-revocation-checks": false}
		if issuer != nil {
			change["idevid-issuer"] = issuer
		}
		if v, err := Open(m.voucher(change), e); err != nil || !v.Expires.IsZero() {
			t.Errorf("issuer %x: %v", issuer, err)
		}
	}
}

func TestVoucherThatDoesNotFit(t *testing.T) {
	m := newMASA(t)
	leaf, _ := certificate(t, "A leaf", false)
	past, future := time.Now().Add(-time.Hour).UTC().Format(time.RFC3339), time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	issuer := m.expected()
	issuer.IDevIDIssuer = []byte{1, 2, 3}
	nonce := m.expected()
	nonce.Nonce = []byte("12345678")
	unknown := m.expected()
	unknown.Serial = ""
	for name, c := range map[string]struct {
		change map[string]any
		e      *Expected
		want   error
	}{
		"another device":         {map[string]any{"serial-number": "pump-8"}, nil, ErrOther},
		"a device without one":   {map[string]any{"serial-number": "pump-8"}, unknown, ErrOther},
		"no serial number":       {map[string]any{"serial-number": nil}, unknown, ErrVoucher},
		"another maker's device": {map[string]any{"idevid-issuer": []byte{1, 2, 4}}, issuer, ErrOther},
		"expired":                {map[string]any{"expires-on": past}, nil, ErrTime},
		"of the future":          {map[string]any{"created-on": future}, nil, ErrTime},
		"no time":                {map[string]any{"created-on": "today"}, nil, ErrVoucher},
		"a nonce nobody sent":    {map[string]any{"nonce": []byte("12345678")}, nil, ErrNonce},
		"another nonce":          {map[string]any{"nonce": []byte("12345679")}, nonce, ErrNonce},
		"no nonce":               {nil, nonce, ErrNonce},
		"no certificate":         {map[string]any{"pinned-domain-cert": nil}, nil, ErrVoucher},
		"not a certificate":      {map[string]any{"pinned-domain-cert": []byte("x")}, nil, ErrVoucher},
		"not a CA":               {map[string]any{"pinned-domain-cert": leaf.Raw}, nil, ErrVoucher},
		"another assertion":      {map[string]any{"assertion": "hoped"}, nil, ErrVoucher},
		"revocation checks":      {map[string]any{"domain-cert-revocation-checks": true}, nil, ErrVoucher},
	} {
		e := c.e
		if e == nil {
			e = m.expected()
		}
		if v, err := Open(m.voucher(c.change), e); !errors.Is(err, c.want) {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
	}
	other := newMASA(t)
	if _, err := Open(other.voucher(nil), m.expected()); !errors.Is(err, ErrVoucher) {
		t.Errorf("another maker: %v", err)
	}
	if _, err := Open(m.sign([]byte(`{"ietf-voucher:voucher":{}}`), "1.2.840.113549.1.7.1"), m.expected()); !errors.Is(err, ErrVoucher) {
		t.Errorf("of another type: %v", err)
	}
	for _, text := range []string{"", "{}", "[]", `{"ietf-voucher:voucher":1}`, `{"ietf-voucher:voucher":{},"x":1}`} {
		if _, err := Open(m.sign([]byte(text), animaJSON), m.expected()); !errors.Is(err, ErrVoucher) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"ietf-voucher:voucher":{"created-on":"2016-10-07T19:31:42Z","assertion":"logged","serial-number":"JADA123456789","idevid-issuer":"YmFzZTY0","pinned-domain-cert":"YmFzZTY0","nonce":"YmFzZTY0"}}`))
	f.Fuzz(func(_ *testing.T, text []byte) {
		b, err := parse(text)
		if err != nil {
			return
		}
		_ = b.fits(&Expected{Serial: "x", Nonce: []byte("y"), IDevIDIssuer: []byte("z")})
		_ = new(Voucher).times(b, time.Now())
	})
}

// withoutOpenSSL skips a test, but not where everything must be installed.
func withoutOpenSSL(t testing.TB) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal("openssl is not installed: .ci/apt does that")
	}
	t.Skip("openssl is not installed")
}
