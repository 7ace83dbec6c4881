// Package voucher reads vouchers (RFC 8366): a device's maker says by one whose
// device it is, with the certificate that the device is to trust.
package voucher

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/atls-ws/atls-ws/internal/est"
)

var (
	// ErrVoucher says that a voucher is none, or not the maker's.
	ErrVoucher = errors.New("voucher")
	// ErrOther says that a voucher is for another device.
	ErrOther = errors.New("voucher for another device")
	// ErrNonce says that a voucher does not answer this device's request.
	ErrNonce = errors.New("voucher with another nonce")
	// ErrTime says that a voucher has expired or is from the future.
	ErrTime = errors.New("voucher out of its time")
)

// contentType is id-ct-animaJSONVoucher.
var contentType = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 1, 40}

const maxAhead = 5 * time.Minute // of the clock of the maker

// Expected is what a voucher must fit.
type Expected struct {
	// MASA are the authorities of the maker's signing service.
	MASA *x509.CertPool
	// Serial is the device's serial number.
	Serial string
	// IDevIDIssuer is the authority key identifier of the factory certificate;
	// nil: it is not known and not compared.
	IDevIDIssuer []byte
	// Nonce is that of the device's request; nil: there was none, and a voucher
	// that has one is refused.
	Nonce []byte
	Now   time.Time
}

// Voucher is a voucher that fits.
type Voucher struct {
	Serial    string
	Assertion string // verified, logged or proximity
	Created   time.Time
	Expires   time.Time // zero: never
	// Pinned is the certificate of an authority of the owner's.
	Pinned *x509.Certificate
	Signer *x509.Certificate
}

type body struct {
	Created    string `json:"created-on"`
	Expires    string `json:"expires-on"`
	Assertion  string `json:"assertion"`
	Serial     string `json:"serial-number"`
	Issuer     []byte `json:"idevid-issuer"`
	Pinned     []byte `json:"pinned-domain-cert"`
	Revocation any    `json:"domain-cert-revocation-checks"`
	Nonce      []byte `json:"nonce"`
}

// Open verifies a voucher in CMS, and that it is for this device and this time.
func Open(der []byte, e *Expected) (*Voucher, error) {
	signed, err := est.VerifySigned(der, e.MASA, e.Now)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrVoucher, err)
	}
	if !signed.Type.Equal(contentType) {
		return nil, fmt.Errorf("%w: its content is of type %s, not a voucher in JSON", ErrVoucher, signed.Type)
	}
	b, err := parse(signed.Content)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrVoucher, err)
	}
	v := &Voucher{Serial: b.Serial, Assertion: b.Assertion, Signer: signed.Signer}
	if err := v.times(b, e.Now); err != nil {
		return nil, err
	}
	if err := b.fits(e); err != nil {
		return nil, err
	}
	if v.Pinned, err = x509.ParseCertificate(b.Pinned); err != nil {
		return nil, fmt.Errorf("%w: pinned-domain-cert: %w", ErrVoucher, err)
	}
	if c := v.Pinned; !c.BasicConstraintsValid || !c.IsCA || c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0 {
		return nil, fmt.Errorf("%w: pinned-domain-cert: %q is not a CA certificate", ErrVoucher, c.Subject)
	}
	if est.Current([]*x509.Certificate{v.Pinned}, e.Now) == nil {
		return nil, fmt.Errorf("%w: pinned-domain-cert: it is valid from %s to %s", ErrTime, stamp(v.Pinned.NotBefore), stamp(v.Pinned.NotAfter))
	}
	return v, nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// parse reads the JSON (RFC 8366 section 5.3).
func parse(content []byte) (*body, error) {
	var whole map[string]json.RawMessage
	if err := json.Unmarshal(content, &whole); err != nil {
		return nil, err
	}
	text, ok := whole["ietf-voucher:voucher"]
	if !ok || len(whole) != 1 {
		return nil, errors.New("want ietf-voucher:voucher and nothing else")
	}
	b := new(body)
	if err := json.Unmarshal(text, b); err != nil {
		return nil, err
	}
	for name, missing := range map[string]bool{
		"created-on": b.Created == "", "serial-number": b.Serial == "", "pinned-domain-cert": len(b.Pinned) == 0,
	} {
		if missing {
			return nil, fmt.Errorf("%s is missing", name)
		}
	}
	if !slices.Contains([]string{"verified", "logged", "proximity"}, b.Assertion) {
		return nil, fmt.Errorf("assertion %q is not verified, logged or proximity", b.Assertion)
	}
	// The registrar's certificate would have to be looked up in a CRL.
	if b.Revocation != nil && b.Revocation != false && b.Revocation != "false" {
		return nil, errors.New("it asks for revocation checks, which are not done here")
	}
	return b, nil
}

func (v *Voucher) times(b *body, now time.Time) (err error) {
	if v.Created, err = time.Parse(time.RFC3339, b.Created); err != nil {
		return fmt.Errorf("%w: created-on: %w", ErrVoucher, err)
	}
	if v.Created.After(now.Add(maxAhead)) {
		return fmt.Errorf("%w: it was made at %s, and the clock says %s", ErrTime, stamp(v.Created), stamp(now))
	}
	if b.Expires == "" {
		return nil
	}
	if v.Expires, err = time.Parse(time.RFC3339, b.Expires); err != nil {
		return fmt.Errorf("%w: expires-on: %w", ErrVoucher, err)
	}
	if now.After(v.Expires) {
		return fmt.Errorf("%w: it expired at %s, and the clock says %s", ErrTime, stamp(v.Expires), stamp(now))
	}
	return nil
}

func (b *body) fits(e *Expected) error {
	if e.Serial == "" || b.Serial != e.Serial {
		return fmt.Errorf("%w: its serial-number is %q, this device's %q", ErrOther, b.Serial, e.Serial)
	}
	if len(b.Issuer) > 0 && e.IDevIDIssuer != nil && !sameIssuer(b.Issuer, e.IDevIDIssuer) {
		return fmt.Errorf("%w: its idevid-issuer is not that of the factory certificate", ErrOther)
	}
	switch {
	case e.Nonce == nil && b.Nonce != nil:
		return fmt.Errorf("%w: it answers a request, and the nonce of that is not known here", ErrNonce)
	case !bytes.Equal(e.Nonce, b.Nonce):
		return fmt.Errorf("%w: it is not the answer to this request", ErrNonce)
	}
	return nil
}

// sameIssuer compares key identifiers: a voucher has one bare, as an OCTET
// STRING, or as the extension in which it is.
func sameIssuer(voucher, id []byte) bool {
	octets, err := asn1.Marshal(id)
	if err != nil {
		return false
	}
	extension, err := asn1.Marshal(struct {
		ID []byte `asn1:"tag:0"`
	}{id})
	return err == nil && (bytes.Equal(voucher, id) || bytes.Equal(voucher, octets) || bytes.Equal(voucher, extension))
}
