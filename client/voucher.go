package client

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/atls-ws/atls-ws/internal/voucher"
)

// Why a voucher is not taken; test with errors.Is.
var (
	ErrVoucher      = voucher.ErrVoucher
	ErrVoucherOther = voucher.ErrOther
	ErrVoucherNonce = voucher.ErrNonce
	ErrVoucherTime  = voucher.ErrTime
)

// ErrPinned says that the device trusts somebody already.
var ErrPinned = errors.New("this device trusts another authority already")

// VoucherOptions say what a voucher must fit, and where its certificate goes.
type VoucherOptions struct {
	// MASA are the authorities of the maker's signing service. Required.
	MASA *x509.CertPool
	// Serial is the device's serial number; empty: Factory's.
	Serial string
	// Factory is the certificate that the device was made with; nil: none.
	Factory *x509.Certificate
	// Nonce is that of the device's request for the voucher; nil: it made none.
	Nonce []byte
	// File is where the pinned certificate goes, PEM, mode 0644: the CA of the
	// INNER server certificate. What is there already stays, and anything else
	// than this certificate is ErrPinned. Required.
	File string
}

// Voucher is what a device's maker says about its owner.
type Voucher struct {
	Serial    string            `json:"serial_number"`
	Assertion string            `json:"assertion"`
	Created   time.Time         `json:"created_on"`
	Expires   time.Time         `json:"expires_on,omitzero"`
	Pinned    Anchor            `json:"pinned_domain_cert"`
	Signer    string            `json:"signer"`
	File      string            `json:"file"`
	Changed   bool              `json:"changed"` // the file was written
	Cert      *x509.Certificate `json:"-"`       // Pinned
}

// Pin takes a voucher (RFC 8366, JSON in CMS) and makes its pinned-domain-cert the
// authority of the INNER server certificate. It makes no connection.
func Pin(der []byte, o *VoucherOptions) (*Voucher, error) {
	if o == nil || o.MASA == nil || o.File == "" {
		return nil, errors.New("voucher: MASA and File are required")
	}
	e := &voucher.Expected{MASA: o.MASA, Serial: o.Serial, Nonce: o.Nonce, Now: time.Now()}
	if o.Factory != nil {
		e.IDevIDIssuer = o.Factory.AuthorityKeyId
		if e.Serial == "" {
			e.Serial = o.Factory.Subject.SerialNumber
		}
	}
	v, err := voucher.Open(der, e)
	if err != nil {
		return nil, err
	}
	out := &Voucher{
		Serial: v.Serial, Assertion: v.Assertion, Created: v.Created, Expires: v.Expires, Signer: clip(v.Signer.Subject.String()),
		Pinned: describeAnchors([]*x509.Certificate{v.Pinned})[0], File: o.File, Cert: v.Pinned,
	}
	old, err := readBundle(o.File)
	switch {
	case err != nil:
		return nil, fmt.Errorf("voucher: %w", err)
	case len(old.certs) == 0:
		out.Changed = true
		return out, writeWhole(old.path, pemOf(v.Pinned), 0o644)
	case len(old.certs) == 1 && bytes.Equal(old.certs[0].Raw, v.Pinned.Raw):
		return out, nil
	}
	return nil, fmt.Errorf("%w: %s", ErrPinned, filepath.Clean(o.File))
}
