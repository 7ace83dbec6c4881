package client

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"time"
)

// OuterPolicy says what the device asks of the outer TLS connection. The inner
// one is verified in any case.
type OuterPolicy int

const (
	// OuterAccept accepts whoever answers and reports what it showed: the case
	// of a device behind a middlebox that it does not trust.
	OuterAccept OuterPolicy = iota
	// OuterVerify wants a chain that validates for the URL's host.
	OuterVerify
)

// OuterConfig is the policy for the outer hop. It is a type of its own so that
// lax verification can never reach another HTTP client.
type OuterConfig struct {
	Policy OuterPolicy
	Roots  *x509.CertPool // nil: the system's
}

// outerHop makes the TLS configuration of one outer connection and keeps what
// that connection met.
type outerHop struct {
	cfg    OuterConfig
	report *OuterReport
}

func (h *outerHop) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, // middleboxes of section 9 of the design speak 1.2
		RootCAs:    h.cfg.Roots,
		// What the chain is worth is decided and recorded below. Post-quantum
		// secrecy is the inner layer's; out here it costs only bytes.
		InsecureSkipVerify: true,
		CurvePreferences:   []tls.CurveID{tls.X25519, tls.CurveP256},
		VerifyConnection:   h.verify,
	}
}

func (h *outerHop) verify(cs tls.ConnectionState) error {
	r := &OuterReport{TLSVersion: tls.VersionName(cs.Version)}
	h.report = r
	err := verifyChain(cs, h.cfg.Roots)
	r.Verified = err == nil
	if err != nil {
		r.VerifyError = err.Error()
	}
	// Four certificates are a long chain; a longer one must not overflow Hello.
	for _, c := range cs.PeerCertificates[:min(4, len(cs.PeerCertificates))] {
		sum := sha256.Sum256(c.Raw)
		r.Chain = append(r.Chain, OuterCert{
			Subject: clip(c.Subject.String()), Issuer: clip(c.Issuer.String()),
			SHA256: hex.EncodeToString(sum[:]), NotAfter: c.NotAfter,
		})
	}
	if h.cfg.Policy == OuterVerify && err != nil {
		return &tls.CertificateVerificationError{UnverifiedCertificates: cs.PeerCertificates, Err: err}
	}
	return nil
}

// verifyChain does what crypto/tls does for a client that verifies.
func verifyChain(cs tls.ConnectionState, roots *x509.CertPool) error {
	opts := x509.VerifyOptions{
		DNSName: cs.ServerName, Roots: roots, CurrentTime: time.Now(),
		Intermediates: x509.NewCertPool(),
	}
	for _, c := range cs.PeerCertificates[1:] {
		opts.Intermediates.AddCert(c)
	}
	_, err := cs.PeerCertificates[0].Verify(opts)
	return err
}

// exporter adds the connection's tls-exporter value (RFC 9266), by which the
// server can tell an interceptor from a direct connection.
func (h *outerHop) exporter(cs *tls.ConnectionState) {
	if h.report == nil || cs == nil {
		return
	}
	if v, err := cs.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32); err == nil {
		h.report.Exporter = v
	}
}

// clip shortens a name that a stranger chose.
func clip(s string) string { return s[:min(len(s), 512)] }
