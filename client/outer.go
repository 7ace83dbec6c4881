package client

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/atls-ws/atls-ws/internal/answer"
	"github.com/atls-ws/atls-ws/internal/outer"
)

// OuterPolicy says what the device asks of the outer TLS connection. The inner
// one is verified in any case.
type OuterPolicy int

const (
	// OuterAuto is OuterVerify when Roots is set, else OuterAccept: roots of
	// one's own are there because they suffice.
	OuterAuto OuterPolicy = iota
	// OuterAccept accepts whoever answers and reports what it showed: the case
	// of a device behind a middlebox that it does not trust.
	OuterAccept
	// OuterVerify wants a chain that validates for the URL's host.
	OuterVerify
	// OuterPin wants a key of Pins: the server's own, or that of an authority of
	// its chain, which must then validate under it.
	OuterPin
)

func (p OuterPolicy) String() string { return [...]string{"auto", "report", "verify", "pin"}[p] }

// OuterConfig is the policy for the outer hop. It is a type of its own so that
// lax verification can never reach another HTTP client.
type OuterConfig struct {
	Policy OuterPolicy
	Roots  *x509.CertPool // nil: the system's
	// Pins are SHA-256 sums of a SubjectPublicKeyInfo (RFC 7469 section 2.4).
	Pins [][sha256.Size]byte
}

func (c *OuterConfig) complete() (*OuterConfig, error) {
	cc := OuterConfig{}
	if c != nil {
		cc = *c
	}
	if cc.Policy == OuterAuto {
		cc.Policy = OuterAccept
		if cc.Roots != nil {
			cc.Policy = OuterVerify
		}
	}
	if cc.Policy == OuterPin && len(cc.Pins) == 0 {
		return nil, errors.New("client: outer policy pin without Pins")
	}
	return &cc, nil
}

// ErrPin says that no certificate of the outer chain has a pinned key.
var ErrPin = errors.New("no certificate of the outer chain has a pinned key")

// hop is an outer hop under a policy, and what its connections met.
type hop struct {
	*outer.Hop
	cfg     *OuterConfig
	host    string
	now     func() time.Time // the clock by which the inner certificates are judged
	withDER bool             // report the certificates themselves even when they verify
	lookups lookups

	mu     sync.Mutex
	report *OuterReport // of the latest TLS connection; nil over plain HTTP
}

func newHop(c *Config) *hop {
	h := &hop{cfg: c.Outer, host: c.host, withDER: c.bootstrap, now: c.TLS.Time}
	if h.now == nil {
		h.now = time.Now
	}
	h.Hop = outer.New(outer.Options{Proxy: c.Proxy, DialContext: h.lookups.dial, TLS: &tls.Config{
		MinVersion: tls.VersionTLS12, // middleboxes of section 9 of the design speak 1.2
		RootCAs:    c.Outer.Roots,
		// What the chain is worth is decided and recorded in verify. Post-quantum
		// secrecy is the inner layer's; out here it costs only bytes.
		InsecureSkipVerify: true,
		CurvePreferences:   []tls.CurveID{tls.X25519, tls.CurveP256},
		VerifyConnection:   h.verify,
	}})
	return h
}

func (h *hop) verify(cs tls.ConnectionState) error {
	r, err := h.inspect(cs)
	h.mu.Lock()
	h.report = r
	h.mu.Unlock()
	switch {
	case h.cfg.Policy == OuterVerify && err != nil:
	case h.cfg.Policy == OuterPin && !pinned(h.now(), cs.PeerCertificates, h.host, h.cfg.Pins):
		err = ErrPin
	default:
		return nil
	}
	return &tls.CertificateVerificationError{UnverifiedCertificates: cs.PeerCertificates, Err: err}
}

// inspect says what a connection shows, and why it does not verify.
func (h *hop) inspect(cs tls.ConnectionState) (*OuterReport, error) {
	r := &OuterReport{TLSVersion: tls.VersionName(cs.Version), Policy: h.cfg.Policy.String()}
	err := outer.VerifyAt(h.now(), cs.PeerCertificates, h.host, h.cfg.Roots)
	r.Verified = err == nil
	if err != nil {
		r.VerifyError = clip(err.Error())
	}
	r.Chain = describe(cs.PeerCertificates, err != nil || h.withDER)
	return r, err
}

// pinned says whether the leaf has a pinned key, or validates under an
// authority of the chain that has one.
func pinned(now time.Time, chain []*x509.Certificate, host string, pins [][sha256.Size]byte) bool {
	authorities := x509.NewCertPool()
	for i, c := range chain {
		if !slices.Contains(pins, sha256.Sum256(c.RawSubjectPublicKeyInfo)) {
			continue
		}
		if i == 0 {
			return true
		}
		authorities.AddCert(c)
	}
	return outer.VerifyAt(now, chain, host, authorities) == nil
}

const (
	maxReported = 4       // certificates of a chain: a longer one must not overflow Hello
	maxDER      = 6 << 10 // of them all
	maxText     = 256     // of a name or an error
)

// describe is the chain as it is reported, leaf first. The DER goes along, as far
// as there is room, when the server may have to find the anchor of it.
func describe(chain []*x509.Certificate, withDER bool) (all []OuterCert) {
	room := maxDER
	for _, c := range chain[:min(maxReported, len(chain))] {
		sum := sha256.Sum256(c.Raw)
		oc := OuterCert{
			Subject: clip(c.Subject.String()), Issuer: clip(c.Issuer.String()),
			SHA256: hex.EncodeToString(sum[:]), NotAfter: c.NotAfter,
		}
		if room -= len(c.Raw); withDER && room >= 0 {
			oc.DER = c.Raw
		}
		all = append(all, oc)
	}
	return all
}

// met is what the latest outer TLS connection showed.
func (h *hop) met() *OuterReport {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.report
}

// reported is what to say in Hello of a carrier whose outer connection has this
// state: with its tls-exporter value (RFC 9266), by which the server can tell
// an interceptor from a direct connection.
func (h *hop) reported(cs *tls.ConnectionState) *OuterReport {
	r := h.met()
	if r == nil || cs == nil || len(cs.PeerCertificates) == 0 {
		return nil
	}
	if sum := sha256.Sum256(cs.PeerCertificates[0].Raw); r.Chain[0].SHA256 != hex.EncodeToString(sum[:]) {
		r, _ = h.inspect(*cs) // the latest connection met another box than this one
	}
	c := *r
	if v, err := cs.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32); err == nil {
		c.Exporter = v
	}
	return &c
}

// clip shortens what a stranger chose, and leaves nothing in it that JSON escapes.
func clip(s string) string {
	return answer.Printable(s[:min(len(s), maxText)])
}
