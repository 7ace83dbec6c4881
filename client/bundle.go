package client

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/atls-ws/atls-ws/internal/est"
)

// maxBundle is far above what a bundle takes, and far below a disk image.
const maxBundle = 1 << 20

// bundle is a file of anchors. One that is not there has none.
type bundle struct {
	path  string // no symbolic link
	certs []*x509.Certificate
}

// readBundle reads the bundle at path. Anything else than one there is
// ErrNotBundle: it is somebody's, and not to be replaced.
func readBundle(path string) (*bundle, error) {
	// A link is kept, and what it leads to replaced.
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	b := &bundle{path: path}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxBundle+1))
	if err != nil {
		return nil, err
	}
	if b.certs, err = parseBundle(data); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return b, nil
}

func parseBundle(data []byte) (certs []*x509.Certificate, err error) {
	if len(data) > maxBundle {
		return nil, fmt.Errorf("%w: over %d bytes", ErrNotBundle, maxBundle)
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%w: it holds a %s", ErrNotBundle, clip(block.Type))
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNotBundle, err)
		}
		certs = append(certs, c)
	}
	switch {
	case len(certs) > est.MaxCertificates: // the system's, perhaps
		return nil, fmt.Errorf("%w of one network: it holds %d", ErrNotBundle, len(certs))
	case len(certs) == 0 && len(bytes.TrimSpace(data)) > 0:
		return nil, fmt.Errorf("%w: it holds none", ErrNotBundle)
	}
	return certs, nil
}

// equal says whether the bundle holds these certificates, in any order.
func (b *bundle) equal(certs []*x509.Certificate) bool {
	return slices.EqualFunc(inOrder(b.certs), inOrder(certs), (*x509.Certificate).Equal)
}

func inOrder(certs []*x509.Certificate) []*x509.Certificate {
	return slices.SortedFunc(slices.Values(certs), func(a, b *x509.Certificate) int { return bytes.Compare(a.Raw, b.Raw) })
}

// staged is a bundle that is on the disk beside the one that it will replace.
type staged struct {
	bundle
	temp string // "" once it is in place
}

// stage writes a bundle out, under another name in the folder of path. The
// caller commits or discards it.
func stage(path string, certs []*x509.Certificate) (*staged, error) {
	data := render(certs)
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".new-*")
	if err != nil {
		return nil, err
	}
	s := &staged{temp: f.Name()}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		s.discard()
		return nil, err
	}
	// What is proven is what was written.
	b, err := readBundle(s.temp)
	if err != nil {
		s.discard()
		return nil, err
	}
	s.bundle = bundle{path, b.certs}
	return s, nil
}

// commit replaces the bundle in one step.
func (s *staged) commit() error {
	if err := os.Rename(s.temp, s.path); err != nil {
		return err
	}
	s.temp = ""
	if dir, err := os.Open(filepath.Dir(s.path)); err == nil {
		_ = dir.Sync() // the bundle is in place, also where a folder cannot be synced
		_ = dir.Close()
	}
	return nil
}

// discard removes what was not committed.
func (s *staged) discard() {
	if s.temp != "" {
		_ = os.Remove(s.temp)
	}
}

// render is the bundle as PEM, with a line for a person before each certificate.
func render(certs []*x509.Certificate) []byte {
	var b bytes.Buffer
	b.WriteString("# Written by atls-ws bootstrap, which replaces it: the anchors of the network's middlebox.\n")
	for _, c := range inOrder(certs) {
		fmt.Fprintf(&b, "\n# %s, until %s\n", clip(c.Subject.String()), c.NotAfter.UTC().Format(time.DateOnly))
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // a Buffer takes it
	}
	return b.Bytes()
}
