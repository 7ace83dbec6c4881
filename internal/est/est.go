// Package est has what both ends need of Enrollment over Secure Transport (RFC
// 7030, clarified by RFC 8951): the certs-only answer of /cacerts, what a trust
// anchor and a request for a certificate have to be, and signed messages. Only
// Asker does I/O, by the transport that it is given.
package est

import (
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
)

const (
	// CACertsPath is where a server gives its anchors (RFC 7030 section 4.1.2).
	CACertsPath = "/.well-known/est/cacerts"
	// ContentType is that of the answer (RFC 7030 section 4.1.3).
	ContentType = "application/pkcs7-mime; smime-type=certs-only"
	// NoAnchors is the problem type (RFC 9457) of the answer 404.
	NoAnchors = "urn:atls-ws:no-anchors"
	// NotEnrolled is the problem type of the answers of enrollment.
	NotEnrolled = "urn:atls-ws:not-enrolled"

	// MaxBody bounds the body of an answer in either direction, in bytes.
	MaxBody = 64 << 10
	// MaxCertificates bounds the certificates in it.
	MaxCertificates = 32
)

var (
	// ErrMalformed says that bytes are not a certs-only answer.
	ErrMalformed = errors.New("not a certs-only answer")
	// ErrTooLarge says that there are more bytes or certificates than an answer may have.
	ErrTooLarge = errors.New("too large")
)

// EncodeBody is the body of an answer: Marshal in base64, on one line (RFC 8951
// section 3.1).
func EncodeBody(certs []*x509.Certificate) ([]byte, error) {
	der, err := Marshal(certs)
	if err != nil {
		return nil, err
	}
	if n := base64.StdEncoding.EncodedLen(len(der)); n > MaxBody {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, n, MaxBody)
	}
	return base64.StdEncoding.AppendEncode(nil, der), nil
}

// DecodeBody is the inverse of EncodeBody. It takes lines of any length that
// end with LF or CRLF.
func DecodeBody(body []byte) ([]*x509.Certificate, error) {
	if len(body) > MaxBody {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, MaxBody)
	}
	der, err := base64.StdEncoding.Strict().AppendDecode(nil, body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return Parse(der)
}
