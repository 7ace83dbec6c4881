package config

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"
)

const nextCRL = "have the authority that signed the devices' certificates issue it again, as in: openssl ca -gencrl -out FILE"

// reasonRemoved is the reason removeFromCRL of RFC 5280 section 5.3.1.
const reasonRemoved = 8

var deltaIndicator = asn1.ObjectIdentifier{2, 5, 29, 27}

// RevokedError says that a device's certificate, or an authority that vouches
// for it, is on a CRL.
type RevokedError struct {
	Certificate *x509.Certificate
	Since       time.Time
}

// Error names the certificate.
func (e *RevokedError) Error() string {
	return fmt.Sprintf("the certificate of %s with serial number %s is revoked since %s",
		e.Certificate.Subject, e.Certificate.SerialNumber, e.Since.UTC().Format(time.RFC3339))
}

// ErrOtherCA says that a device's certificate is of an authority that is not
// in client_ca any more.
var ErrOtherCA = errors.New("no authority of inner.client_ca vouches for the certificate")

// clients is what decides on the certificates of devices beyond their
// signatures. It does not change.
type clients struct {
	authorities []*x509.Certificate
	revoked     map[string]time.Time // by issuer and serial number: since when
}

// verify is for VerifyConnection, which also runs when a session is resumed, and
// for sessions that are up already.
func (c *clients) verify(cs tls.ConnectionState) error {
	if len(cs.VerifiedChains) == 0 {
		return errors.New("the certificate has not been verified")
	}
	err := ErrOtherCA
	for _, chain := range cs.VerifiedChains {
		if !slices.ContainsFunc(c.authorities, chain[len(chain)-1].Equal) {
			continue
		}
		if r := c.revokedIn(chain); r != nil {
			err = r
			continue
		}
		return nil
	}
	return err
}

func (c *clients) revokedIn(chain []*x509.Certificate) error {
	for _, cert := range chain {
		if since, ok := c.revoked[revokedKey(cert.RawIssuer, cert.SerialNumber.Bytes())]; ok {
			return &RevokedError{cert, since}
		}
	}
	return nil
}

func revokedKey(issuer, serial []byte) string { return string(issuer) + "\x00" + string(serial) }

// loadClients reads the authorities and the CRLs.
func (s *Server) loadClients() (*clients, []*x509.RevocationList, error) {
	authorities, err := loadCerts(s.Inner.ClientCA, nextCA)
	if err != nil {
		return nil, nil, err
	}
	c := &clients{authorities: authorities, revoked: map[string]time.Time{}}
	var all []*x509.RevocationList
	var failed []error
	for _, file := range s.Inner.CRL {
		lists, err := loadCRL(file, authorities)
		if err != nil {
			failed = append(failed, &FileError{File: file, Err: err, Next: nextCRL})
			continue
		}
		for _, list := range lists {
			for _, entry := range list.RevokedCertificateEntries {
				if entry.ReasonCode != reasonRemoved {
					c.revoked[revokedKey(list.RawIssuer, entry.SerialNumber.Bytes())] = entry.RevocationTime
				}
			}
		}
		all = append(all, lists...)
	}
	return c, all, errors.Join(failed...)
}

// loadCRL reads the lists of a file, PEM or DER, each of which one of the
// authorities has signed. An old list is better than none: it is used, and the
// daemon warns of it.
func loadCRL(file string, authorities []*x509.Certificate) (lists []*x509.RevocationList, err error) {
	data, err := readFile(file, nextCRL)
	if fe := (*FileError)(nil); errors.As(err, &fe) {
		return nil, fe.Err
	}
	var ders [][]byte
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "X509 CRL" {
			return nil, fmt.Errorf("holds a %s: only CRLs belong into it", block.Type)
		}
		ders = append(ders, block.Bytes)
	}
	if len(ders) == 0 {
		if !bytes.HasPrefix(data, []byte{0x30}) {
			return nil, errors.New("is no CRL, neither PEM (\"X509 CRL\") nor DER")
		}
		ders = append(ders, data)
	}
	for _, der := range ders {
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return nil, fmt.Errorf("is no CRL: %w", err)
		}
		if slices.ContainsFunc(list.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(deltaIndicator) }) {
			return nil, errors.New("is a delta CRL: name the complete one")
		}
		if !slices.ContainsFunc(authorities, func(a *x509.Certificate) bool { return list.CheckSignatureFrom(a) == nil }) {
			return nil, fmt.Errorf("its issuer %q is no authority of inner.client_ca, or did not sign it", list.Issuer)
		}
		lists = append(lists, list)
	}
	return lists, nil
}

// loadCerts reads the certificates of a PEM file.
func loadCerts(file, next string) (certs []*x509.Certificate, err error) {
	data, err := readPEM(file, "CERTIFICATE", next)
	if err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, &FileError{File: file, Err: err, Next: next}
		}
		certs = append(certs, cert)
	}
	return certs, nil
}
