package est

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// signer makes signed messages with openssl.
type signer struct {
	t     testing.TB
	dir   string
	roots *x509.CertPool
}

func newSigner(t testing.TB, key crypto.Signer) *signer {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		withoutOpenSSL(t)
	}
	s := &signer{t: t, dir: t.TempDir(), roots: x509.NewCertPool()}
	ca, caKey := authority(t, "MASA CA", nil, nil, nil)
	s.roots.AddCert(ca)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "MASA"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, SubjectKeyId: []byte{1, 2, 3, 4},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	s.write("cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	s.write("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
	return s
}

func (s *signer) write(name string, data []byte) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), data, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *signer) sign(content string, more ...string) []byte {
	s.t.Helper()
	s.write("content", []byte(content))
	cmd := exec.Command("openssl", append([]string{"cms", "-sign", "-in", "content", "-signer", "cert.pem", "-inkey", "key.pem", "-binary", "-nodetach", "-outform", "DER"}, more...)...)
	cmd.Dir = s.dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("openssl: %v\n%s", err, stderr.String())
	}
	return out
}

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	_, k := authority(t, "x", nil, nil, nil)
	return k
}

func TestSignedByOpenSSL(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	const voucher = "1.2.840.113549.1.9.16.1.40"
	for name, key := range map[string]crypto.Signer{"ecdsa": ecKey(t), "rsa": rsaKey} {
		s := newSigner(t, key)
		for _, more := range [][]string{nil, {"-keyid"}, {"-md", "sha384"}, {"-md", "sha512", "-econtent_type", voucher}, {"-nosmimecap"}} {
			got, err := VerifySigned(s.sign("the content", more...), s.roots, now)
			if err != nil || string(got.Content) != "the content" || got.Signer.Subject.CommonName != "MASA" {
				t.Errorf("%s %v: %v, %v", name, more, got, err)
				continue
			}
			if want := slices.Contains(more, voucher); (got.Type.String() == voucher) != want {
				t.Errorf("%s %v: of type %s", name, more, got.Type)
			}
		}
		for why, more := range map[string][]string{
			"no attributes": {"-noattr"}, "no certificate": {"-nocerts"}, "SHA-1": {"-md", "sha1"}, "indefinite lengths": {"-indef", "-stream"},
		} {
			if got, err := VerifySigned(s.sign("the content", more...), s.roots, now); !errors.Is(err, ErrSigned) {
				t.Errorf("%s %s: %v, %v", name, why, got, err)
			}
		}
		if _, err := VerifySigned(s.sign("the content"), x509.NewCertPool(), now); !errors.Is(err, ErrSigned) {
			t.Errorf("%s: of another authority: %v", name, err)
		}
		if _, err := VerifySigned(s.sign("the content"), s.roots, now.Add(2*time.Hour)); !errors.Is(err, ErrSigned) {
			t.Errorf("%s: expired: %v", name, err)
		}
	}
}

func TestNoChangeOfASignedMessageGoesUnseen(t *testing.T) {
	s := newSigner(t, ecKey(t))
	der := s.sign("the content")
	want, err := VerifySigned(der, s.roots, now)
	if err != nil {
		t.Fatal(err)
	}
	for i := range der {
		bad := slices.Clone(der)
		bad[i] ^= 1
		// The version and the list of digests say nothing; what counts does not change.
		if got, err := VerifySigned(bad, s.roots, now); err == nil && (!bytes.Equal(got.Content, want.Content) || !got.Type.Equal(want.Type) || !got.Signer.Equal(want.Signer)) {
			t.Errorf("byte %d: %q", i, got.Content)
		}
		if _, err := VerifySigned(der[:i], s.roots, now); err == nil {
			t.Errorf("cut to %d bytes", i)
		}
	}
	if _, err := VerifySigned(append(slices.Clone(der), 0), s.roots, now); err == nil {
		t.Error("a byte more")
	}
}

func FuzzVerifySigned(f *testing.F) {
	s := newSigner(f, ecKey(f))
	f.Add(s.sign("the content"))
	f.Add(s.sign("the content", "-keyid", "-md", "sha384"))
	f.Fuzz(func(t *testing.T, der []byte) {
		if got, err := VerifySigned(der, s.roots, now); err == nil && string(got.Content) != "the content" {
			t.Errorf("%q", got.Content)
		}
	})
}
