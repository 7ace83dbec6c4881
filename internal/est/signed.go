package est

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// ErrSigned says that a signed message is not what a holder of the anchors signed.
var ErrSigned = errors.New("signed message")

// Signed is the content of a SignedData whose signature is right.
type Signed struct {
	Type    asn1.ObjectIdentifier // of the content
	Content []byte
	Signer  *x509.Certificate
}

// maxSigned bounds a message, in bytes.
const maxSigned = MaxBody

// maxAttributes bounds the signed attributes.
const maxAttributes = 16

var (
	oidContentType   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}
	oidMessageDigest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
	oidRSA           = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
)

// digests are those that are taken.
var digests = map[string]crypto.Hash{
	"2.16.840.1.101.3.4.2.1": crypto.SHA256, "2.16.840.1.101.3.4.2.2": crypto.SHA384, "2.16.840.1.101.3.4.2.3": crypto.SHA512,
}

// signatures are the signature algorithms, with the digest that goes with each.
var signatures = map[string]struct {
	algorithm x509.SignatureAlgorithm
	digest    crypto.Hash
}{
	"1.2.840.10045.4.3.2":   {x509.ECDSAWithSHA256, crypto.SHA256},
	"1.2.840.10045.4.3.3":   {x509.ECDSAWithSHA384, crypto.SHA384},
	"1.2.840.10045.4.3.4":   {x509.ECDSAWithSHA512, crypto.SHA512},
	"1.2.840.113549.1.1.11": {x509.SHA256WithRSA, crypto.SHA256},
	"1.2.840.113549.1.1.12": {x509.SHA384WithRSA, crypto.SHA384},
	"1.2.840.113549.1.1.13": {x509.SHA512WithRSA, crypto.SHA512},
}

// VerifySigned opens a SignedData (RFC 5652) in DER with its content inside, one
// signer, signed attributes, and the signer's certificate, which validates under
// roots at the time now. Digests are SHA-2; signatures ECDSA or RSA PKCS #1 v1.5.
func VerifySigned(der []byte, roots *x509.CertPool, now time.Time) (*Signed, error) {
	if len(der) > maxSigned {
		return nil, fmt.Errorf("%w: %w: more than %d bytes", ErrSigned, ErrTooLarge, maxSigned)
	}
	m, err := parseSigned(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSigned, err)
	}
	if err := m.verify(roots, now); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSigned, err)
	}
	return &Signed{m.contentType, m.content, m.signer}, nil
}

// signedMessage is what a SignedData says, before anything of it is believed.
type signedMessage struct {
	contentType asn1.ObjectIdentifier
	content     []byte
	certs       []*x509.Certificate
	signer      *x509.Certificate
	digest      crypto.Hash
	attributes  []byte // as they are signed
	algorithm   x509.SignatureAlgorithm
	signature   []byte
}

// elements reads the elements of DER one after the other, and leaves out none.
type elements struct {
	rest []byte
	err  error
}

// next reads an element of that class and tag.
func (e *elements) next(class, tag int, compound bool) (v asn1.RawValue) {
	if e.err != nil {
		return v
	}
	if e.rest, e.err = asn1.Unmarshal(e.rest, &v); e.err != nil {
		e.err = errors.New("malformed")
	} else if v.Class != class || v.Tag != tag || v.IsCompound != compound {
		e.err = fmt.Errorf("malformed: an element of class %d, tag %d where %d, %d belongs", v.Class, v.Tag, class, tag)
	}
	return v
}

func (e *elements) sequence() *elements {
	return &elements{e.next(asn1.ClassUniversal, asn1.TagSequence, true).Bytes, e.err}
}

func (e *elements) set() *elements {
	return &elements{e.next(asn1.ClassUniversal, asn1.TagSet, true).Bytes, e.err}
}

// context reads a constructed element of a context's tag.
func (e *elements) context(tag int) asn1.RawValue {
	return e.next(asn1.ClassContextSpecific, tag, true)
}

// has says whether the next element is of a context's tag.
func (e *elements) has(tag int) bool {
	return e.err == nil && len(e.rest) > 0 && e.rest[0]&0xdf == 0x80|byte(tag)
}

func (e *elements) oid() (oid asn1.ObjectIdentifier) {
	v := e.next(asn1.ClassUniversal, asn1.TagOID, false)
	if e.err == nil {
		if _, err := asn1.Unmarshal(v.FullBytes, &oid); err != nil {
			e.err = errors.New("malformed object identifier")
		}
	}
	return oid
}

func (e *elements) octets() []byte {
	return e.next(asn1.ClassUniversal, asn1.TagOctetString, false).Bytes
}

// algorithm reads an AlgorithmIdentifier, whose parameters are none or NULL.
func (e *elements) algorithm() string {
	a := e.sequence()
	oid := a.oid()
	if a.err == nil && len(a.rest) > 0 {
		a.next(asn1.ClassUniversal, asn1.TagNull, false)
	}
	e.err = a.end()
	return oid.String()
}

// end is the error so far, also when something is left.
func (e *elements) end() error {
	if e.err == nil && len(e.rest) > 0 {
		return errors.New("malformed: more than belongs there")
	}
	return e.err
}

func parseSigned(der []byte) (*signedMessage, error) {
	m := new(signedMessage)
	whole := &elements{rest: der}
	info := whole.sequence()
	if oid := info.oid(); info.err == nil && !oid.Equal(oidSignedData) {
		return nil, fmt.Errorf("of type %s, not signed data", oid)
	}
	explicit := &elements{info.context(0).Bytes, info.err}
	sd := explicit.sequence()
	sd.next(asn1.ClassUniversal, asn1.TagInteger, false) // follows from the rest
	sd.set()                                             // so do the digests
	encapsulated := sd.sequence()
	m.contentType = encapsulated.oid()
	content := &elements{encapsulated.context(0).Bytes, encapsulated.err}
	m.content = content.octets()
	var certs []byte
	if sd.has(0) {
		certs = sd.context(0).Bytes
	}
	if sd.has(1) {
		sd.context(1) // CRLs: nobody looks at them
	}
	signers := sd.set()
	for _, e := range []*elements{whole, info, explicit, encapsulated, content, sd} {
		if err := e.end(); err != nil {
			return nil, err
		}
	}
	var err error
	if m.certs, err = parseCertificates(certs); err != nil {
		return nil, err
	}
	signer := signers.sequence()
	if err := signers.end(); err != nil {
		return nil, fmt.Errorf("not one signer: %w", err)
	}
	return m, m.parseSigner(signer)
}

func parseCertificates(der []byte) (certs []*x509.Certificate, err error) {
	for rest := der; len(rest) > 0; {
		if len(certs) == MaxCertificates {
			return nil, fmt.Errorf("%w: more than %d certificates", ErrTooLarge, MaxCertificates)
		}
		var raw asn1.RawValue
		if rest, err = asn1.Unmarshal(rest, &raw); err != nil {
			return nil, errors.New("malformed certificates")
		}
		c, err := x509.ParseCertificate(raw.FullBytes)
		if err != nil {
			return nil, err
		}
		if k, ok := c.PublicKey.(*rsa.PublicKey); ok && k.N.BitLen() > 2*maxRSA {
			return nil, fmt.Errorf("%w: an RSA key of more than %d bits", ErrTooLarge, 2*maxRSA)
		}
		certs = append(certs, c)
	}
	return certs, nil
}

func (m *signedMessage) parseSigner(s *elements) error {
	s.next(asn1.ClassUniversal, asn1.TagInteger, false) // version
	if s.has(0) {
		id := s.next(asn1.ClassContextSpecific, 0, false).Bytes
		m.signer = m.find(func(c *x509.Certificate) bool { return bytes.Equal(c.SubjectKeyId, id) })
	} else {
		name := s.sequence()
		issuer := name.next(asn1.ClassUniversal, asn1.TagSequence, true).FullBytes
		serial := new(big.Int)
		if v := name.next(asn1.ClassUniversal, asn1.TagInteger, false); name.err == nil {
			if _, err := asn1.Unmarshal(v.FullBytes, &serial); err != nil {
				return errors.New("malformed serial number")
			}
		}
		if err := name.end(); err != nil {
			return err
		}
		m.signer = m.find(func(c *x509.Certificate) bool {
			return bytes.Equal(c.RawIssuer, issuer) && c.SerialNumber.Cmp(serial) == 0
		})
	}
	digest := s.algorithm()
	if s.err == nil && !s.has(0) {
		return errors.New("without signed attributes")
	}
	attributes := s.context(0)
	signature := s.algorithm()
	m.signature = s.octets()
	if s.has(1) {
		s.context(1) // unsigned attributes: whoever wants can add some
	}
	if err := s.end(); err != nil {
		return err
	}
	// They are signed as the SET that they are (RFC 5652 section 5.4).
	m.attributes = append([]byte{0x31}, attributes.FullBytes[1:]...)
	m.digest = digests[digest]
	known := signatures[signature]
	if signature == oidRSA.String() { // RFC 3370: the digest is named elsewhere
		for _, k := range signatures {
			if k.digest == m.digest && (k.algorithm == x509.SHA256WithRSA || k.algorithm == x509.SHA384WithRSA || k.algorithm == x509.SHA512WithRSA) {
				known = k
			}
		}
	}
	switch {
	case m.digest == 0:
		return fmt.Errorf("digest %s is not taken", digest)
	case known.digest != m.digest:
		return fmt.Errorf("signature algorithm %s is not taken, or not with this digest", signature)
	case m.signer == nil:
		return errors.New("the signer's certificate is not in it")
	}
	m.algorithm = known.algorithm
	return nil
}

func (m *signedMessage) find(is func(*x509.Certificate) bool) *x509.Certificate {
	for _, c := range m.certs {
		if is(c) {
			return c
		}
	}
	return nil
}

func (m *signedMessage) verify(roots *x509.CertPool, now time.Time) error {
	values, err := m.signedAttributes()
	if err != nil {
		return err
	}
	kind := &elements{rest: values[oidContentType.String()]}
	if oid := kind.oid(); kind.end() != nil || !oid.Equal(m.contentType) {
		return errors.New("the content is not of the type that was signed")
	}
	hash := m.digest.New()
	hash.Write(m.content)
	sum := &elements{rest: values[oidMessageDigest.String()]}
	if was := sum.octets(); sum.end() != nil || !bytes.Equal(was, hash.Sum(nil)) {
		return errors.New("the content is not what was signed")
	}
	if err := m.signer.CheckSignature(m.algorithm, m.attributes, m.signature); err != nil {
		return fmt.Errorf("the signature is wrong: %w", err)
	}
	o := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	for _, c := range m.certs {
		o.Intermediates.AddCert(c)
	}
	if _, err := m.signer.Verify(o); err != nil {
		return fmt.Errorf("the signer %q: %w", m.signer.Subject, err)
	}
	if u := m.signer.KeyUsage; u != 0 && u&(x509.KeyUsageDigitalSignature|x509.KeyUsageContentCommitment) == 0 {
		return fmt.Errorf("the signer %q: its key usage forbids it to sign", m.signer.Subject)
	}
	return nil
}

// signedAttributes are the values by type; each has one, and is there once.
func (m *signedMessage) signedAttributes() (map[string][]byte, error) {
	values := map[string][]byte{}
	whole := &elements{rest: m.attributes}
	for all := whole.set(); len(all.rest) > 0 && all.err == nil; {
		a := all.sequence()
		oid := a.oid().String()
		set := a.set()
		v := set.rest
		if err := errors.Join(all.err, a.end(), set.err); err != nil {
			return nil, err
		}
		if _, twice := values[oid]; twice || len(values) == maxAttributes {
			return nil, errors.New("a signed attribute twice, or too many")
		}
		values[oid] = v
	}
	return values, whole.end()
}
