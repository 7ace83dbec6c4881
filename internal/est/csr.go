package est

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
)

const (
	// DevicePath begins the paths of enrollment: the label device of RFC 7030
	// section 3.2.2, for without a label cacerts is about the outer hop.
	DevicePath = "/.well-known/est/device/"
	// CACerts is the operation below DevicePath that gives the authorities.
	CACerts = "cacerts"
	// Enroll is that for a first certificate.
	Enroll = "simpleenroll"
	// Reenroll is that for another one.
	Reenroll = "simplereenroll"
	// Attributes is that which says what to ask for.
	Attributes = "csrattrs"

	// CSRType is the content type of a request to enroll.
	CSRType = "application/pkcs10"
	// AttributesType is that of the answer to csrattrs.
	AttributesType = "application/csrattrs"

	// MaxCSR bounds the body of a request, in bytes.
	MaxCSR = 16 << 10

	// DeviceURN begins the URI that names a device in a certificate.
	DeviceURN = "urn:atls-ws:device:"

	minRSA, maxRSA = 2048, 4096 // bits
)

// ErrCSR says that a request for a certificate is not to be granted.
var ErrCSR = errors.New("certificate request")

// NewCSR makes the request for a certificate of a device, in DER: with the id as
// common name and as URI, for authorities that copy one of them.
func NewCSR(device string, key crypto.Signer) ([]byte, error) {
	uri, err := url.Parse(DeviceURN + device)
	if err != nil {
		return nil, err
	}
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: device}, URIs: []*url.URL{uri},
	}, key)
}

// EncodeCSR is the body of a request to enroll (RFC 8951 section 3).
func EncodeCSR(der []byte) []byte { return base64.StdEncoding.AppendEncode(nil, der) }

// DecodeCSR reads the body of a request to enroll. Its key is of a kind and size
// that is taken, and has signed it; what names say is not looked at.
func DecodeCSR(body []byte) (*x509.CertificateRequest, error) {
	if len(body) > MaxCSR {
		return nil, fmt.Errorf("%w: %w: more than %d bytes", ErrCSR, ErrTooLarge, MaxCSR)
	}
	der, err := base64.StdEncoding.Strict().AppendDecode(nil, body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCSR, err)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCSR, err)
	}
	if err := CheckKey(csr.PublicKey); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCSR, err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: its signature: %w", ErrCSR, err)
	}
	return csr, nil
}

// CheckKey says whether certificates are made for such a key.
func CheckKey(pub any) error {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
			return nil
		}
		return errors.New("a key on an unusual curve: want P-256, P-384 or P-521")
	case ed25519.PublicKey:
		return nil
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < minRSA || n > maxRSA {
			return fmt.Errorf("an RSA key of %d bits: want %d to %d", n, minRSA, maxRSA)
		}
		return nil
	}
	return errors.New("a key of an unknown kind: want ECDSA, Ed25519 or RSA")
}

// CheckNames says whether each name in a request is the device's, so that an
// authority that copies names can sign it.
func CheckNames(csr *x509.CertificateRequest, device string) error {
	refuse := func(kind, name string) error {
		return fmt.Errorf("%w: %s %q: this identity may only have the id %q", ErrCSR, kind, name, device)
	}
	for kind, name := range map[string]string{"the common name": csr.Subject.CommonName, "the serialNumber": csr.Subject.SerialNumber} {
		if name != "" && name != device {
			return refuse(kind, name)
		}
	}
	// Organizational units make groups.
	for _, n := range csr.Subject.Names {
		if !n.Type.Equal(oidCommonName) && !n.Type.Equal(oidSerialNumber) {
			return fmt.Errorf("%w: subject %q: want no more than a common name and a serialNumber", ErrCSR, csr.Subject)
		}
	}
	for _, name := range csr.DNSNames {
		if name != device {
			return refuse("the DNS name", name)
		}
	}
	for _, u := range csr.URIs {
		if name := u.String(); name != DeviceURN+device && name != device {
			return refuse("the URI", name)
		}
	}
	if len(csr.EmailAddresses) > 0 || len(csr.IPAddresses) > 0 {
		return fmt.Errorf("%w: it asks for e-mail or IP addresses", ErrCSR)
	}
	for _, e := range csr.Extensions {
		if !e.Id.Equal(oidSubjectAltName) && !e.Id.Equal(oidKeyUsage) && !e.Id.Equal(oidExtKeyUsage) {
			return fmt.Errorf("%w: it asks for the extension %s", ErrCSR, e.Id)
		}
	}
	return nil
}

var (
	oidCommonName     = asn1.ObjectIdentifier{2, 5, 4, 3}
	oidSerialNumber   = asn1.ObjectIdentifier{2, 5, 4, 5}
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidKeyUsage       = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidExtKeyUsage    = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidECPublicKey    = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
	oidP256           = asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}
	oidECDSASHA256    = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
)

// EncodeAttributes is the answer to csrattrs (RFC 7030 section 4.5.2): what is
// best asked for, a P-256 key and a signature with SHA-256.
func EncodeAttributes() ([]byte, error) {
	der, err := asn1.Marshal(struct {
		Key struct {
			Type   asn1.ObjectIdentifier
			Values []asn1.ObjectIdentifier `asn1:"set"`
		}
		Signature asn1.ObjectIdentifier
	}{struct {
		Type   asn1.ObjectIdentifier
		Values []asn1.ObjectIdentifier `asn1:"set"`
	}{oidECPublicKey, []asn1.ObjectIdentifier{oidP256}}, oidECDSASHA256})
	return base64.StdEncoding.AppendEncode(nil, der), err
}
