package client

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// identity is a device's certificate and key in two files. What is to replace
// them stands beside them, with newSuffix, until all of it is there.
type identity struct {
	cert, key string
}

const newSuffix = ".new"

// load reads the pair, once it has ended what a crash interrupted.
func (f identity) load() (*tls.Certificate, error) {
	if err := f.recover(); err != nil {
		return nil, err
	}
	c, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return nil, err
	}
	return &c, nil
}

// recover ends an install: the certificate is written when its key is, and so
// the new key, wherever it stands by now, is that of the new certificate.
func (f identity) recover() error {
	if _, err := os.Stat(f.cert + newSuffix); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if _, err := tls.LoadX509KeyPair(f.cert+newSuffix, f.key+newSuffix); err == nil {
		return f.commit()
	}
	if _, err := tls.LoadX509KeyPair(f.cert+newSuffix, f.key); err == nil {
		return rename(f.cert)
	}
	return os.Remove(f.cert + newSuffix) // half of one
}

func (f identity) commit() error {
	if err := rename(f.key); err != nil {
		return err
	}
	return rename(f.cert)
}

func rename(path string) error {
	if err := os.Rename(path+newSuffix, path); err != nil {
		return err
	}
	if dir, err := os.Open(filepath.Dir(path)); err == nil {
		_ = dir.Sync() // it is in place, also where a folder cannot be synced
		_ = dir.Close()
	}
	return nil
}

// nextKey is the key that the next certificate is for. It is on the disk before
// anybody hears of it; what an earlier try asked with is used again, so that a
// token can be too.
func (f identity) nextKey() (crypto.Signer, error) {
	path := f.key + newSuffix
	if data, err := os.ReadFile(path); err == nil {
		if block, _ := pem.Decode(data); block != nil {
			if key, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
				if signer, ok := key.(crypto.Signer); ok {
					return signer, nil
				}
			}
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, writeWhole(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

// install makes chain, for the key of nextKey, the device's.
func (f identity) install(chain []*x509.Certificate) (*tls.Certificate, error) {
	if err := writeWhole(f.cert+newSuffix, pemOf(chain...), 0o644); err != nil {
		return nil, err
	}
	// What is used is what was written.
	if _, err := tls.LoadX509KeyPair(f.cert+newSuffix, f.key+newSuffix); err != nil {
		return nil, err
	}
	if err := f.commit(); err != nil {
		return nil, err
	}
	return f.load()
}

func pemOf(chain ...*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, c := range chain {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // a Buffer takes it
	}
	return b.Bytes()
}

// writeWhole replaces a file in one step.
func writeWhole(path string, data []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// checkClock says that a certificate is not valid at this time.
func checkClock(c *x509.Certificate, now time.Time) error {
	if now.Before(c.NotBefore) {
		return fmt.Errorf("%w: it says %s, and the certificate begins at %s", ErrClock, now.UTC().Format(time.RFC3339), c.NotBefore.UTC().Format(time.RFC3339))
	}
	if now.After(c.NotAfter) {
		return fmt.Errorf("%w: it says %s, and the certificate ended at %s", ErrClock, now.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}
