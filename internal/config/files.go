package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"
)

var errNotThere = errors.New("no such file")

// FileError is a file that cannot be used, and what to do about it.
type FileError struct {
	File string
	Err  error
	Next string
}

// Error has two lines: what is wrong, then the next step.
func (e *FileError) Error() string { return fmt.Sprintf("%s: %v\n%s", e.File, e.Err, e.Next) }

// Unwrap returns Err.
func (e *FileError) Unwrap() error { return e.Err }

// ExpiredError is a certificate outside its time of validity. It is wrapped in a
// FileError.
type ExpiredError struct {
	NotBefore, NotAfter time.Time
	now                 time.Time
}

// Error names the date that was missed.
func (e *ExpiredError) Error() string {
	if e.now.Before(e.NotBefore) {
		return fmt.Sprintf("the certificate is not valid before %s, and the clock says %s",
			e.NotBefore.UTC().Format(time.RFC3339), e.now.UTC().Format(time.RFC3339))
	}
	return "the certificate expired on " + e.NotAfter.UTC().Format(time.RFC3339)
}

// loadPair loads a certificate with its key; next says how to come by one.
func loadPair(certFile, keyFile, next string) (tls.Certificate, error) {
	return loadPairAt(time.Now(), certFile, keyFile, next)
}

// loadPairAt is loadPair for a time that is not the system's.
func loadPairAt(now time.Time, certFile, keyFile, next string) (tls.Certificate, error) {
	certPEM, certErr := readPEM(certFile, "CERTIFICATE", next)
	keyPEM, keyErr := readPEM(keyFile, "PRIVATE KEY", next)
	if err := errors.Join(certErr, keyErr); err != nil {
		return tls.Certificate{}, err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return tls.Certificate{}, &FileError{File: certFile, Err: fmt.Errorf("with the key %s: %w", keyFile, err),
			Next: "name the key that was made with this certificate, or " + next}
	}
	if err := checkDates(pair.Leaf, now); err != nil {
		if err.now.Before(err.NotBefore) {
			next = "set the clock"
		}
		return tls.Certificate{}, &FileError{File: certFile, Err: err, Next: next}
	}
	return pair, nil
}

func checkDates(c *x509.Certificate, now time.Time) *ExpiredError {
	if now.Before(c.NotBefore) || now.After(c.NotAfter) {
		return &ExpiredError{NotBefore: c.NotBefore, NotAfter: c.NotAfter, now: now}
	}
	return nil
}

// loadPool adds the certificates of file to pool, or to a new one when it is nil.
func loadPool(file, next string, pool *x509.CertPool) (*x509.CertPool, error) {
	data, err := readPEM(file, "CERTIFICATE", next)
	if err != nil {
		return nil, err
	}
	if pool == nil {
		pool = x509.NewCertPool()
	}
	usable := false
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, &FileError{File: file, Err: err, Next: next}
		}
		pool.AddCert(cert)
		usable = usable || time.Now().Before(cert.NotAfter)
	}
	if !usable {
		return nil, &FileError{File: file, Err: errors.New("every certificate in it has expired"), Next: next}
	}
	return pool, nil
}

// readPEM reads a file that has at least one PEM block whose type ends in kind.
func readPEM(file, kind, next string) ([]byte, error) {
	data, err := readFile(file, next)
	if err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		// EC PRIVATE KEY and RSA PRIVATE KEY are private keys as well.
		if strings.HasSuffix(block.Type, kind) {
			return data, nil
		}
	}
	return nil, &FileError{File: file, Err: fmt.Errorf("has no PEM block %q", kind), Next: next}
}

// cause strips the path from an error of package os: FileError names it.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
