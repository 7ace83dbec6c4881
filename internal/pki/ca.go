package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// ServerName is the DNS name that a server's inner certificate carries by
// default, and that a device therefore asks for.
const ServerName = "atls-ws"

// DeviceURN is the prefix of the URI that carries a device's id in its
// certificate.
const DeviceURN = "urn:atls-ws:device:"

// Validity of what is made when the caller gives none.
const (
	CAValidity   = 20 * 365 * 24 * time.Hour
	LeafValidity = 825 * 24 * time.Hour
)

// backdate allows for the clock of the other end being slow.
const backdate = time.Hour

// CA is a certificate authority: a self-signed certificate and its key.
// It is immutable and safe for concurrent use.
type CA struct {
	cert *x509.Certificate
	pair *Pair
	key  crypto.Signer
}

// NewCA makes an authority with a fresh key. name becomes its common name.
func NewCA(name string) (*CA, error) {
	now := time.Now()
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(CAValidity),
		IsCA:                  true,
		MaxPathLenZero:        true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	pair, err := issue(template, nil)
	if err != nil {
		return nil, err
	}
	return newCA(pair)
}

// LoadCA reads ca.pem and ca-key.pem of dir.
func LoadCA(dir string) (*CA, error) {
	pair, err := ReadPair(dir, CAFile)
	if err != nil {
		return nil, err
	}
	ca, err := newCA(pair)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, CAFile+".pem"), err)
	}
	return ca, nil
}

// ReadCA reads an authority from its two files.
func ReadCA(certFile, keyFile string) (*CA, error) {
	cert, err := os.ReadFile(certFile)
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, err
	}
	ca, err := newCA(&Pair{CertPEM: cert, KeyPEM: key})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", certFile, err)
	}
	return ca, nil
}

func newCA(pair *Pair) (*CA, error) {
	c, err := pair.TLS()
	if err != nil {
		return nil, err
	}
	key, ok := c.PrivateKey.(crypto.Signer)
	switch {
	case !ok:
		return nil, errors.New("the key cannot sign")
	case !c.Leaf.IsCA:
		return nil, errors.New("not a CA certificate")
	case time.Now().After(c.Leaf.NotAfter):
		return nil, fmt.Errorf("the CA certificate expired on %s", c.Leaf.NotAfter.Format(time.DateOnly))
	}
	return &CA{cert: c.Leaf, pair: pair, key: key}, nil
}

// Server issues a server certificate for names, which are DNS names or IP
// addresses; none means ServerName. A validity of 0 is LeafValidity; a
// negative one gives a certificate that has expired already, for tests.
func (ca *CA) Server(names []string, validity time.Duration) (*Pair, error) {
	if len(names) == 0 {
		names = []string{ServerName}
	}
	t := leaf(validity)
	t.Subject.CommonName = names[0]
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	if err := addNames(t, names); err != nil {
		return nil, err
	}
	return issue(t, ca)
}

// Device issues a client certificate whose first URI names the device id.
// validity is as for Server.
func (ca *CA) Device(id string, validity time.Duration) (*Pair, error) {
	t, err := deviceLeaf(id, validity)
	if err != nil {
		return nil, err
	}
	return issue(t, ca)
}

// Sign issues a client certificate like Device's for a key that the device keeps
// to itself. It begins a tenth of its validity early, an hour at most.
func (ca *CA) Sign(id string, key crypto.PublicKey, validity time.Duration) (*x509.Certificate, error) {
	t, err := deviceLeaf(id, validity)
	if err != nil {
		return nil, err
	}
	t.NotBefore = time.Now().Add(-min(backdate, validity/10))
	der, err := certify(t, ca, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func deviceLeaf(id string, validity time.Duration) (*x509.Certificate, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	uri, err := url.Parse(DeviceURN + id)
	if err != nil {
		return nil, err
	}
	t := leaf(validity)
	t.Subject.CommonName = id
	t.URIs = []*url.URL{uri}
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return t, nil
}

// SelfSigned makes a server certificate that nobody has a reason to trust,
// for the outer listener of a development server.
func SelfSigned(names []string, validity time.Duration) (*Pair, error) {
	if len(names) == 0 {
		return nil, errors.New("a self-signed certificate needs a name")
	}
	t := leaf(validity)
	t.Subject.CommonName = names[0]
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	if err := addNames(t, names); err != nil {
		return nil, err
	}
	return issue(t, nil)
}

// Certificate returns the authority's certificate, which is not to be changed.
func (ca *CA) Certificate() *x509.Certificate { return ca.cert }

// CertPEM returns the authority's certificate in PEM.
func (ca *CA) CertPEM() []byte { return append([]byte(nil), ca.pair.CertPEM...) }

// Pool returns a new pool that holds only this authority.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

// Write stores the authority in dir as ca.pem and ca-key.pem; see Pair.Write.
func (ca *CA) Write(dir string, force bool) error { return ca.pair.Write(dir, CAFile, force) }

func leaf(validity time.Duration) *x509.Certificate {
	if validity == 0 {
		validity = LeafValidity
	}
	now := time.Now()
	from, until := now, now.Add(validity)
	if until.Before(from) {
		from = until
	}
	return &x509.Certificate{
		NotBefore:             from.Add(-backdate),
		NotAfter:              until,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
	}
}

func addNames(t *x509.Certificate, names []string) error {
	for _, name := range names {
		if name == "" {
			return errors.New("a server name is empty")
		}
		if ip := net.ParseIP(name); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, name)
		}
	}
	return nil
}

// issue makes a key for template and signs it with parent, or with the new key
// itself when parent is nil.
func issue(template *x509.Certificate, parent *CA) (*Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	var der []byte
	if parent != nil {
		der, err = certify(template, parent, key.Public())
	} else {
		der, err = x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	}
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return &Pair{
		CertPEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		KeyPEM:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	}, nil
}

// certify signs template for a key.
func certify(template *x509.Certificate, parent *CA, key crypto.PublicKey) ([]byte, error) {
	// A chain ends when its first certificate does: do not promise more.
	if template.NotAfter.After(parent.cert.NotAfter) {
		template.NotAfter = parent.cert.NotAfter
	}
	return x509.CreateCertificate(rand.Reader, template, parent.cert, key, parent.key)
}
