package est

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

func TestRequestOfThisDeviceIsTaken(t *testing.T) {
	der, err := NewCSR("pump-7", ecKey(t))
	if err != nil {
		t.Fatal(err)
	}
	csr, err := DecodeCSR(EncodeCSR(der))
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckNames(csr, "pump-7"); err != nil {
		t.Error(err)
	}
	if err := CheckNames(csr, "pump-8"); !errors.Is(err, ErrCSR) {
		t.Error(err)
	}
}

func TestRequestsOfOpenSSLAreTaken(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		withoutOpenSSL(t)
	}
	key := filepath.Join(t.TempDir(), "key.pem")
	for _, kind := range [][]string{{"ec", "-pkeyopt", "ec_paramgen_curve:P-384"}, {"rsa:2048"}, {"ed25519"}} {
		args := append(append([]string{"req", "-new", "-newkey"}, kind...), "-nodes", "-keyout", key, "-subj", "/CN=pump-7/serialNumber=pump-7", "-addext", "subjectAltName=DNS:pump-7", "-outform", "DER")
		der, err := exec.Command("openssl", args...).Output()
		if err != nil {
			t.Fatal(err)
		}
		csr, err := DecodeCSR(wrap(EncodeCSR(der), "\r\n"))
		if err == nil {
			err = CheckNames(csr, "pump-7")
		}
		if err != nil {
			t.Errorf("%v: %v", kind, err)
		}
	}
}

func TestAttributesAreWhatOpenSSLReads(t *testing.T) {
	body, err := EncodeAttributes()
	if err != nil {
		t.Fatal(err)
	}
	der, err := base64.StdEncoding.DecodeString(string(body))
	if err != nil {
		t.Fatal(err)
	}
	// SEQUENCE { SEQUENCE { id-ecPublicKey, SET { P-256 } }, ecdsa-with-SHA256 }
	want := []byte{
		0x30, 0x21, 0x30, 0x15, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x31, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07,
		0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02,
	}
	if !bytes.Equal(der, want) {
		t.Errorf("%x", der)
	}
}

// withCRLs is the certs-only answer of servers that write an empty list of CRLs.
func withCRLs(t testing.TB, certs ...*x509.Certificate) []byte {
	t.Helper()
	set := func(tag int, bytes []byte) asn1.RawValue {
		return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, IsCompound: true, Bytes: bytes}
	}
	var all []byte
	for _, c := range certs {
		all = append(all, c.Raw...)
	}
	empty := asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagSet, IsCompound: true}
	inner, err := asn1.Marshal(struct {
		Version     int
		Digests     asn1.RawValue
		Content     struct{ Type asn1.ObjectIdentifier }
		Certs, CRLs asn1.RawValue
		Signers     asn1.RawValue
	}{1, empty, struct{ Type asn1.ObjectIdentifier }{oidData}, set(0, all), set(1, nil), empty})
	if err != nil {
		t.Fatal(err)
	}
	der, err := asn1.Marshal(contentInfo{Type: oidSignedData, Content: set(0, inner)})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestAnswersOfOtherServersAreTaken(t *testing.T) {
	a, b := root(t, "a", nil), root(t, "b", nil)
	plain, err := Marshal([]*x509.Certificate{a, b})
	if err != nil {
		t.Fatal(err)
	}
	for name, der := range map[string][]byte{"plain": plain, "with CRLs": withCRLs(t, a, b)} {
		if got, err := ParseCerts(der); err != nil || !equal(got, []*x509.Certificate{a, b}) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		for i := range der {
			if _, err := ParseCerts(der[:i]); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s, cut to %d: %v", name, i, err)
			}
		}
		if _, err := ParseCerts(append(bytes.Clone(der), 0)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s, longer: %v", name, err)
		}
	}
	if _, err := ParseCerts(withCRLs(t)); !errors.Is(err, ErrMalformed) {
		t.Errorf("none: %v", err)
	}
}

func TestAskerTellsWhatItGot(t *testing.T) {
	key := ecKey(t)
	csr, err := NewCSR("pump-7", key)
	if err != nil {
		t.Fatal(err)
	}
	other := body(t, root(t, "another key", nil))
	status, kind, text := 0, "", ""
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(text))
	}))
	defer s.Close()
	a := &Asker{Transport: s.Client().Transport, URL: s.URL + "/"}
	for _, c := range []struct {
		status     int
		kind, text string
		is         error
	}{
		{200, ContentType, string(other), ErrMalformed}, {200, "text/html", string(other), ErrMalformed}, {200, ContentType, "<html>", ErrMalformed},
		{202, "text/plain", "", ErrLater}, {503, "", "busy", ErrLater},
	} {
		status, kind, text = c.status, c.kind, c.text
		certs, _, err := a.Sign(t.Context(), Enroll, csr)
		if !errors.Is(err, c.is) {
			t.Errorf("%+v: %v, %v", c, certs, err)
		}
		if no := (*StatusError)(nil); errors.As(err, &no) && no.RetryAfter != 7*time.Second {
			t.Errorf("%+v: %v", c, no.RetryAfter)
		}
	}
}

func FuzzDecodeCSR(f *testing.F) {
	der, err := NewCSR("pump-7", ecKey(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(EncodeCSR(der))
	f.Fuzz(func(_ *testing.T, b []byte) {
		if csr, err := DecodeCSR(b); err == nil {
			_ = CheckNames(csr, "pump-7")
		}
	})
}

func FuzzParseCerts(f *testing.F) {
	f.Add(withCRLs(f, root(f, "a", nil)))
	f.Fuzz(func(t *testing.T, der []byte) {
		if certs, err := ParseCerts(der); err == nil && (len(certs) == 0 || len(certs) > MaxCertificates) {
			t.Errorf("%d certificates", len(certs))
		}
	})
}
