package client

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/atls-ws/atls-ws/internal/est"
	"github.com/atls-ws/atls-ws/internal/outer"
)

var (
	// ErrNoAnchors says that the service has no anchors for the network.
	ErrNoAnchors = errors.New("the service has no trust anchors for this network")
	// ErrBundle says that what the service gave is not fit to be trusted.
	ErrBundle = errors.New("the trust anchors that the service gave are refused")
	// ErrUnproven says that a new connection does not come to be under the bundle.
	ErrUnproven = errors.New("a new connection with the bundle")
	// ErrNoOuterTLS says that the outer hop shows no certificate to be trusted.
	ErrNoOuterTLS = errors.New("the outer hop has no TLS")
	// ErrNotBundle says that the file to replace holds something else.
	ErrNotBundle = errors.New("not a bundle of certificates")
)

// BootstrapOptions say where the bundle is.
type BootstrapOptions struct {
	// File is the bundle, PEM, mode 0644. Its folder must be there. Required.
	File string
	// SystemRoots are trusted besides; nil is the system's.
	SystemRoots *x509.CertPool
}

// Trust is what a device met on the outer hop, and what it can rely on there.
type Trust struct {
	// Issuer of the certificate that was met: it names the middlebox.
	Issuer string      `json:"issuer"`
	Chain  []OuterCert `json:"chain"` // as met, leaf first
	// System says that the chain validates under the system's roots alone, Known
	// that it did under them and the bundle as it was.
	System bool `json:"verified_by_system"`
	Known  bool `json:"verified_before"`
	// Served says that the service has anchors for the chain, Changed that the
	// bundle was written because they differ.
	Served  bool     `json:"served"`
	Changed bool     `json:"changed"`
	File    string   `json:"file"`
	Anchors []Anchor `json:"anchors"` // in the bundle as it is now
}

// Anchor is a certificate of a bundle.
type Anchor struct {
	Subject  string    `json:"subject"`
	SHA256   string    `json:"sha256"` // of the DER, lower-case hex
	NotAfter time.Time `json:"not_after"`
}

// Bootstrap makes the outer hop trustworthy. Over a session whose outer TLS it
// does not trust it reports the chain that it met and asks the service for the
// anchors of that network (RFC 7030 section 4.1). It writes them to a file only
// when they validate that chain for the URL's host, and when a session over a
// NEW outer connection, strictly verified under the system's roots and them,
// is ready. The file is then as good for any other HTTPS client. On an error
// it is as it was before.
//
// The inner session never trusts them. A service that has no anchors is an
// error unless the outer TLS verifies already. c's Outer and Mux are not used,
// and a session of the device that is up stays. ctx bounds all of it.
func Bootstrap(ctx context.Context, c *Config, o *BootstrapOptions) (*Trust, error) {
	b, err := newBootstrap(c, o)
	if err != nil {
		return nil, err
	}
	old, err := readBundle(o.File)
	if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	t, anchors, err := b.ask(ctx, old)
	if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	if err := b.install(ctx, t, old, anchors); err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	return t, nil
}

// bootstrap is one call of Bootstrap.
type bootstrap struct {
	cfg     *Config // complete; Outer is set for each session
	system  *x509.CertPool
	carrier Carrier // that worked
}

func newBootstrap(c *Config, o *BootstrapOptions) (*bootstrap, error) {
	if o == nil || o.File == "" {
		return nil, errors.New("bootstrap: File is missing")
	}
	cfg, err := c.complete()
	if err != nil {
		return nil, err
	}
	cfg.Mux, cfg.bootstrap = new(Mux), true
	b := &bootstrap{cfg: cfg, system: o.SystemRoots, carrier: CarrierWebSocket}
	if b.system == nil {
		if b.system, err = x509.SystemCertPool(); err != nil {
			b.system = x509.NewCertPool() // a small device may have none
		}
	}
	return b, nil
}

// with is the system's roots and certs.
func (b *bootstrap) with(certs []*x509.Certificate) *x509.CertPool {
	pool := b.system.Clone()
	for _, c := range certs {
		pool.AddCert(c)
	}
	return pool
}

func (b *bootstrap) connect(ctx context.Context, o *OuterConfig) (*Session, error) {
	cfg := *b.cfg
	cfg.Outer = o
	s, err := connect(ctx, &cfg, b.carrier, rand.Text())
	if err == nil {
		b.carrier = Carrier(s.Hello().Carrier)
	}
	return s, err
}

// ask reports the chain that a session meets, and returns the anchors that the
// service has for it; none when it has none and none are needed.
func (b *bootstrap) ask(ctx context.Context, old *bundle) (*Trust, []*x509.Certificate, error) {
	s, err := b.connect(ctx, &OuterConfig{Policy: OuterAccept, Roots: b.with(old.certs)})
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = s.Close() }()
	met := s.Hello().Outer
	if met == nil {
		return nil, nil, ErrNoOuterTLS
	}
	chain, err := certificates(met.Chain)
	if err != nil {
		return nil, nil, err
	}
	t := &Trust{
		Issuer: met.Chain[0].Issuer, Chain: met.WithoutDER().Chain, Known: met.Verified,
		System: outer.Verify(chain, b.cfg.host, b.system) == nil, File: old.path,
	}
	anchors, err := fetchAnchors(ctx, s)
	if errors.Is(err, ErrNoAnchors) && t.Known {
		return t, nil, nil
	}
	if err == nil {
		err = b.check(anchors, chain)
	}
	if err != nil {
		return nil, nil, err
	}
	t.Served = true
	return t, anchors, nil
}

// certificates are those of a report.
func certificates(reported []OuterCert) (chain []*x509.Certificate, err error) {
	for _, oc := range reported {
		if oc.DER == nil {
			break
		}
		c, err := x509.ParseCertificate(oc.DER)
		if err != nil {
			return nil, fmt.Errorf("outer chain: %w", err)
		}
		chain = append(chain, c)
	}
	if len(chain) == 0 {
		return nil, errors.New("outer chain: its certificates are too large to be reported")
	}
	return chain, nil
}

// check is the device's own judgement of the anchors: what it is given must be
// what it asked for. They must validate the chain alone: where the system's
// roots do too, anything else would pass.
func (b *bootstrap) check(anchors, chain []*x509.Certificate) error {
	if err := est.CheckBundle(anchors, time.Now()); err != nil {
		return fmt.Errorf("%w: %w", ErrBundle, err)
	}
	alone := x509.NewCertPool()
	for _, c := range anchors {
		alone.AddCert(c)
	}
	if err := outer.Verify(chain, b.cfg.host, alone); err != nil {
		return fmt.Errorf("%w: the chain that was met does not validate under them: %w", ErrBundle, err)
	}
	return nil
}

// install proves that a new connection verifies under the anchors, or under the
// old bundle where there are none, and puts a changed bundle into its place.
func (b *bootstrap) install(ctx context.Context, t *Trust, old *bundle, anchors []*x509.Certificate) error {
	if anchors == nil || old.equal(anchors) {
		t.Anchors = describeAnchors(old.certs)
		return b.prove(ctx, old.certs)
	}
	next, err := stage(old.path, anchors)
	if err != nil {
		return err
	}
	defer next.discard()
	if err := b.prove(ctx, next.certs); err != nil {
		return err
	}
	if err := next.commit(); err != nil {
		return err
	}
	t.Changed, t.Anchors = true, describeAnchors(next.certs)
	return nil
}

// prove makes one more session, over a new outer connection that verifies.
func (b *bootstrap) prove(ctx context.Context, certs []*x509.Certificate) error {
	s, err := b.connect(ctx, &OuterConfig{Policy: OuterVerify, Roots: b.with(certs)})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnproven, err)
	}
	_ = s.Close() // it has done its work
	return nil
}

func describeAnchors(certs []*x509.Certificate) []Anchor {
	all := []Anchor{}
	for _, c := range certs {
		sum := sha256.Sum256(c.Raw)
		all = append(all, Anchor{Subject: cmp.Or(clip(c.Subject.String()), "(no name)"), SHA256: hex.EncodeToString(sum[:]), NotAfter: c.NotAfter})
	}
	return all
}
