package est

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
)

var (
	oidData       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidSignedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
)

// The degenerate SignedData of RFC 5652 section 5.1 that RFC 5272 section 4.1
// calls a simple PKI response: certificates, no content and nobody's signature.
type (
	contentInfo struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue // [0] EXPLICIT signedData
	}
	signedData struct {
		Version      int
		Digests      asn1.RawValue // SET, empty
		Content      struct{ Type asn1.ObjectIdentifier }
		Certificates asn1.RawValue // [0] IMPLICIT SET OF
		Signers      asn1.RawValue // SET, empty
	}
)

// Marshal makes the DER of a certs-only answer. The order of certs is lost: a
// DER set is sorted.
func Marshal(certs []*x509.Certificate) ([]byte, error) {
	switch {
	case len(certs) == 0:
		return nil, fmt.Errorf("%w: no certificate", ErrMalformed)
	case len(certs) > MaxCertificates:
		return nil, fmt.Errorf("%w: %d certificates, at most %d", ErrTooLarge, len(certs), MaxCertificates)
	}
	return marshal(sorted(certs))
}

// sorted is certs in the order of their bytes.
func sorted(certs []*x509.Certificate) []*x509.Certificate {
	return slices.SortedFunc(slices.Values(certs), func(a, b *x509.Certificate) int { return bytes.Compare(a.Raw, b.Raw) })
}

func marshal(certs []*x509.Certificate) ([]byte, error) {
	set := asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagSet, IsCompound: true}
	sd := signedData{
		Version: 1, Digests: set, Signers: set,
		Certificates: asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true},
	}
	sd.Content.Type = oidData
	for _, c := range certs {
		sd.Certificates.Bytes = append(sd.Certificates.Bytes, c.Raw...)
	}
	inner, err := asn1.Marshal(sd)
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(contentInfo{
		Type:    oidSignedData,
		Content: asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: inner},
	})
}

// Parse reads what Marshal makes, with the certificates in any order, and so
// what "openssl crl2pkcs7 -nocrl" makes. Anything besides them, as a signature,
// an attribute certificate or a length that is not DER's, is ErrMalformed. The
// certificates keep der.
func Parse(der []byte) ([]*x509.Certificate, error) {
	if len(der) > MaxBody {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, MaxBody)
	}
	var ci contentInfo
	var sd signedData
	if rest, err := asn1.Unmarshal(der, &ci); err != nil || len(rest) > 0 {
		return nil, ErrMalformed
	}
	if _, err := asn1.Unmarshal(ci.Content.Bytes, &sd); err != nil {
		return nil, ErrMalformed
	}
	var certs []*x509.Certificate
	for rest := sd.Certificates.Bytes; len(rest) > 0; {
		if len(certs) == MaxCertificates {
			return nil, fmt.Errorf("%w: more than %d certificates", ErrTooLarge, MaxCertificates)
		}
		var raw asn1.RawValue
		var err error
		if rest, err = asn1.Unmarshal(rest, &raw); err != nil {
			return nil, ErrMalformed
		}
		c, err := x509.ParseCertificate(raw.FullBytes)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("%w: no certificate", ErrMalformed)
	}
	// encoding/asn1 skips what it does not know at the end of a sequence, and
	// the raw values above may be of any type. There is only one right encoding:
	// make it again.
	if again, err := marshal(certs); err != nil || !bytes.Equal(again, der) {
		return nil, ErrMalformed
	}
	return certs, nil
}

// ParseCerts reads the certificates of an answer to a request for one, of whatever
// EST server: like Parse, and also what others put beside them, as an empty list
// of CRLs. Whatever else is in the message is nobody's word, and not looked at.
func ParseCerts(der []byte) ([]*x509.Certificate, error) {
	if len(der) > MaxBody {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, MaxBody)
	}
	whole := &elements{rest: der}
	info := whole.sequence()
	if oid := info.oid(); info.err == nil && !oid.Equal(oidSignedData) {
		return nil, fmt.Errorf("%w: of type %s", ErrMalformed, oid)
	}
	explicit := &elements{info.context(0).Bytes, info.err}
	sd := explicit.sequence()
	sd.next(asn1.ClassUniversal, asn1.TagInteger, false) // version
	sd.set()                                             // digests
	sd.sequence()                                        // content
	certs := sd.context(0).Bytes
	if sd.has(1) {
		sd.context(1)
	}
	sd.set() // signers
	for _, e := range []*elements{whole, info, explicit, sd} {
		if err := e.end(); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
	}
	all, err := parseCertificates(certs)
	if err == nil && len(all) == 0 {
		err = errors.New("no certificate")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return all, nil
}
