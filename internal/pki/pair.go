package pki

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Names of the pairs in a PKI folder, for Pair.Write and ReadPair: the
// certificate is <name>.pem and its key <name>-key.pem.
const (
	CAFile     = "ca"
	ServerFile = "server"
	OuterFile  = "outer"
)

// DeviceFile returns the name of the pair of a device.
func DeviceFile(id string) string { return "device-" + id }

// CertPath returns where the certificate of the pair called name is in dir.
func CertPath(dir, name string) string { return filepath.Join(dir, name+".pem") }

// KeyPath returns where the key of the pair called name is in dir.
func KeyPath(dir, name string) string { return filepath.Join(dir, name+"-key.pem") }

// Pair is a certificate and its private key, both PEM.
type Pair struct {
	CertPEM []byte
	KeyPEM  []byte
}

// TLS parses the pair, and fails when the key is not the certificate's.
func (p *Pair) TLS() (tls.Certificate, error) { return tls.X509KeyPair(p.CertPEM, p.KeyPEM) }

// Write stores the pair in dir, which it makes if need be, as <name>.pem and
// <name>-key.pem; only the owner can read the key. What exists is an error
// that matches fs.ErrExist, unless force replaces it.
func (p *Pair) Write(dir, name string, force bool) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	cert, key := CertPath(dir, name), KeyPath(dir, name)
	if !force {
		for _, path := range []string{cert, key} {
			if _, err := os.Lstat(path); err == nil {
				return fmt.Errorf("%s: %w", path, fs.ErrExist)
			}
		}
	}
	if err := writeFile(key, p.KeyPEM, 0o600, force); err != nil {
		return err
	}
	if err := writeFile(cert, p.CertPEM, 0o644, force); err != nil {
		if !force {
			_ = os.Remove(key) // a key without certificate would block the next attempt
		}
		return err
	}
	return nil
}

// ReadPair reads the pair called name of dir and checks that the key is the
// certificate's.
func ReadPair(dir, name string) (*Pair, error) {
	cert, err := os.ReadFile(CertPath(dir, name))
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(KeyPath(dir, name))
	if err != nil {
		return nil, err
	}
	p := &Pair{CertPEM: cert, KeyPEM: key}
	if _, err := p.TLS(); err != nil {
		return nil, fmt.Errorf("%s and its key: %w", CertPath(dir, name), err)
	}
	return p, nil
}

// writeFile creates path, or with force replaces it in one step, so that a
// reader never sees half of a replaced file nor a key with loose permissions.
func writeFile(path string, data []byte, mode os.FileMode, force bool) error {
	if !force {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
		if err != nil {
			return err
		}
		return fill(f, data)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	if err := fill(f, data); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	return nil
}

// fill writes data to f and closes it; a file that could not be filled is removed.
func fill(f *os.File, data []byte) error {
	_, err := f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
