package est

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2030, 6, 1, 0, 0, 0, 0, time.UTC)

// root makes a self-signed authority that change may spoil.
func root(t testing.TB, name string, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	c, _ := authority(t, name, change, nil, nil)
	return c
}

// authority makes one that parent signs, or itself when that is nil.
func authority(t testing.TB, name string, change func(*x509.Certificate), parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	if change != nil {
		change(c)
	}
	if parent == nil {
		parent, parentKey = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), parentKey)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return c, key
}

func equal(a, b []*x509.Certificate) bool {
	return slices.EqualFunc(sorted(a), sorted(b), (*x509.Certificate).Equal)
}

func body(t testing.TB, certs ...*x509.Certificate) []byte {
	t.Helper()
	b, err := EncodeBody(certs)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBodyGivesTheCertificatesBack(t *testing.T) {
	certs := []*x509.Certificate{root(t, "old", nil), root(t, "new", nil)}
	one := body(t, certs...)
	for name, b := range map[string][]byte{
		"one line":        one,
		"lines with LF":   wrap(one, "\n"),
		"lines with CRLF": wrap(one, "\r\n"),
		"in other order":  body(t, certs[1], certs[0]),
	} {
		if got, err := DecodeBody(b); err != nil || !equal(got, certs) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func wrap(b []byte, end string) []byte {
	var lines []byte
	for line := range slices.Chunk(b, 64) {
		lines = append(append(lines, line...), end...)
	}
	return lines
}

func TestBodyIsBounded(t *testing.T) {
	many := make([]*x509.Certificate, MaxCertificates+1)
	for i := range many {
		many[i] = root(t, "x", nil)
	}
	if _, err := EncodeBody(many); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too many to encode: %v", err)
	}
	der, err := marshal(many)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(der); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too many to parse: %v", err)
	}
	long := root(t, "long", func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3}, Value: make([]byte, MaxBody)}}
	})
	if _, err := EncodeBody([]*x509.Certificate{long}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too long to encode: %v", err)
	}
	if _, err := DecodeBody(make([]byte, MaxBody+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too long to decode: %v", err)
	}
}

func TestRefusesWhatIsNotCertsOnly(t *testing.T) {
	c := root(t, "x", nil)
	der, err := Marshal([]*x509.Certificate{c})
	if err != nil {
		t.Fatal(err)
	}
	none, err := marshal(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"nothing":            nil,
		"no certificate":     none,
		"trailing byte":      append(slices.Clone(der), 0),
		"cut short":          der[:len(der)-1],
		"a bare certificate": c.Raw,
		"indefinite length":  append(append([]byte{0x30, 0x80}, der[4:]...), 0, 0),
		"with signers":       bytes.Replace(der, []byte{0x31, 0x00, 0x30}, []byte{0x31, 0x02, 0x05, 0x00, 0x30}, 1),
	} {
		if got, err := Parse(bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	for name, bad := range map[string]string{
		"not base64": "<html>", "padding": base64.StdEncoding.EncodeToString(der) + "=", "a page": "AAAA",
	} {
		if got, err := DecodeBody([]byte(bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if _, err := Marshal(nil); err == nil {
		t.Error("an empty answer is made")
	}
}

func TestNoFlippedBitPasses(t *testing.T) {
	want := []*x509.Certificate{root(t, "old", nil), root(t, "new", nil)}
	der, err := Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	for i := range der {
		for bit := range 8 {
			bad := slices.Clone(der)
			bad[i] ^= 1 << bit
			got, err := Parse(bad)
			if err == nil {
				err = CheckBundle(got, now)
			}
			if err == nil {
				t.Errorf("byte %d, bit %d: passes", i, bit)
			}
		}
	}
}

func TestAnchorMustBeACurrentCA(t *testing.T) {
	good := root(t, "good", nil)
	forged := slices.Clone(good.Raw)
	forged[len(forged)-1] ^= 1
	bad, err := x509.ParseCertificate(forged)
	if err != nil {
		t.Fatal(err)
	}
	top, topKey := authority(t, "top", nil, nil, nil)
	issuing, _ := authority(t, "issuing", nil, top, topKey)
	for want, certs := range map[string][]*x509.Certificate{
		"neither a root": {good, issuing},
		"not a CA":       {root(t, "leaf", func(c *x509.Certificate) { c.IsCA = false })},
		"key usage":      {root(t, "usage", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign })},
		"expired":        {good, root(t, "old", func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) })},
		"not valid":      {root(t, "early", func(c *x509.Certificate) { c.NotBefore = now.Add(time.Minute) })},
		"twice":          {good, good},
		"own signature":  {bad},
		"is nil":         {nil},
		"no certificate": {},
	} {
		if err := CheckBundle(certs, now); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	plain := root(t, "no usage", func(c *x509.Certificate) { c.KeyUsage = 0 })
	if err := CheckBundle([]*x509.Certificate{good, plain}, now); err != nil {
		t.Error(err)
	}
	if err := CheckBundle([]*x509.Certificate{issuing, top}, now); err != nil {
		t.Error(err)
	}
	if got := Current([]*x509.Certificate{good, plain}, now.Add(2*time.Hour)); got != nil {
		t.Errorf("current: %v", got)
	}
}

func TestOpenSSLReadsAndWritesTheSame(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		withoutOpenSSL(t)
	}
	certs := []*x509.Certificate{root(t, "one", nil), root(t, "two", nil)}
	var in []byte
	for _, c := range certs {
		in = append(in, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	run := func(stdin []byte, args ...string) []byte {
		cmd := exec.Command(openssl, args...)
		cmd.Stdin = bytes.NewReader(stdin)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("openssl %v: %v", args, err)
		}
		return out
	}
	got, err := Parse(run(in, "crl2pkcs7", "-nocrl", "-certfile", "/dev/stdin", "-outform", "DER"))
	if err != nil || !equal(got, certs) {
		t.Errorf("of openssl: %v, %v", got, err)
	}
	der, err := Marshal(certs)
	if err != nil {
		t.Fatal(err)
	}
	var back []*x509.Certificate
	for block, rest := pem.Decode(run(der, "pkcs7", "-inform", "DER", "-print_certs")); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		back = append(back, c)
	}
	if !equal(back, certs) {
		t.Errorf("by openssl: %v", back)
	}
}

func FuzzParse(f *testing.F) {
	der, err := Marshal([]*x509.Certificate{root(f, "a", nil), root(f, "b", nil)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(der)
	f.Add(der[:40])
	f.Fuzz(func(t *testing.T, der []byte) {
		certs, err := Parse(der)
		if err != nil {
			return
		}
		if again, err := marshal(certs); err != nil || !bytes.Equal(again, der) || len(certs) > MaxCertificates {
			t.Errorf("%d certificates, %v", len(certs), err)
		}
		_ = CheckBundle(certs, now)
	})
}

func FuzzDecodeBody(f *testing.F) {
	f.Add(body(f, root(f, "a", nil)))
	f.Add([]byte("MAA=\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if certs, err := DecodeBody(b); err == nil && len(certs) == 0 {
			t.Error("no certificate and no error")
		}
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
