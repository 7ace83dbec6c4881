package pki

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// CRLValidity is the time after which a list asks to be renewed. It is used
// beyond that too.
const CRLValidity = 365 * 24 * time.Hour

// CRLPath is the CA's list of revoked certificates in the folder dir.
func CRLPath(dir string) string { return filepath.Join(dir, "crl.pem") }

// CRL is the list of dir, without entries when there is none yet.
func (ca *CA) CRL(dir string) (*x509.RevocationList, error) {
	path := CRLPath(dir)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &x509.RevocationList{Number: new(big.Int)}, nil
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s: is no CRL in PEM", path)
	}
	list, err := x509.ParseRevocationList(block.Bytes)
	if err == nil {
		err = list.CheckSignatureFrom(ca.cert)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return list, nil
}

// Revoke adds certificates to the list of dir and replaces it in one step.
func (ca *CA) Revoke(dir string, certs ...*x509.Certificate) error {
	old, err := ca.CRL(dir)
	if err != nil {
		return err
	}
	now := time.Now()
	list := &x509.RevocationList{
		RevokedCertificateEntries: slices.Clone(old.RevokedCertificateEntries),
		ThisUpdate:                now, NextUpdate: now.Add(CRLValidity), Number: big.NewInt(1),
	}
	if old.Number != nil {
		list.Number.Add(old.Number, list.Number)
	}
	for _, c := range certs {
		if err := c.CheckSignatureFrom(ca.cert); err != nil {
			return fmt.Errorf("the certificate of %s is not of this CA: %w", c.Subject, err)
		}
		there := slices.ContainsFunc(list.RevokedCertificateEntries, func(e x509.RevocationListEntry) bool { return e.SerialNumber.Cmp(c.SerialNumber) == 0 })
		if !there {
			list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: now})
		}
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, ca.cert, ca.key)
	if err != nil {
		return err
	}
	return writeFile(CRLPath(dir), pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}), 0o644, true)
}
