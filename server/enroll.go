package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/atls-ws/atls-ws/internal/proto"
)

// Ways in which a device shows who it is when it enrolls.
const (
	ByFactory     = "factory"     // its factory certificate (IEEE 802.1AR IDevID)
	ByToken       = "token"       // a one-time token
	ByCertificate = "certificate" // the certificate that it renews
)

// Enrollment lets devices get certificates inside (RFC 7030): at
// /.well-known/est/device/ of the service http, ahead of Handler. CA is required.
type Enrollment struct {
	// CA signs.
	CA Authority
	// Factory are the authorities of factory certificates. A device that shows one
	// gets to enrollment and nothing else, over atls-http/1; its id is the subject's
	// serialNumber.
	Factory []*x509.Certificate
	// Token lets a device in without a certificate, over atls-http/1 and to
	// enrollment alone. It says whether the token is the device's, and uses it up
	// in the same step, but for the key with the sum spki (SHA-256 of the
	// SubjectPublicKeyInfo): a device whose answer was lost asks again. nil: no
	// device comes without a certificate. TLS.VerifyConnection sees these too.
	Token func(ctx context.Context, device, token string, spki [32]byte) error
	// Allow decides on each request; nil allows all. Its error is told.
	Allow func(ctx context.Context, r *EnrollRequest) error
}

// EnrollRequest is a device's request for a certificate. The CSR's signature,
// key and names have been checked.
type EnrollRequest struct {
	Device string
	By     string
	CSR    *x509.CertificateRequest
}

// Authority signs the certificates of devices.
type Authority interface {
	// CACerts are the authority and what is above it.
	CACerts(ctx context.Context) ([]*x509.Certificate, error)
	// Issue returns a certificate for the CSR's key, followed by what a chain
	// needs. The names in it are for the authority to set; the server delivers none
	// that it would not itself accept from that device. An error is logged, and
	// the device told to come back.
	Issue(ctx context.Context, r *EnrollRequest) ([]*x509.Certificate, error)
}

const (
	maxGuests     = 256              // that are enrolling at once
	guestLifetime = time.Minute      // of their connections
	enrollTimeout = 30 * time.Second // for the authority
)

// guest is a peer that may enroll and nothing else.
type guest struct {
	device string // of the factory certificate; empty: it will show a token
}

func (g *guest) String() string {
	if g.device == "" {
		return "(without a certificate)"
	}
	return "factory:" + g.device
}

// prepareEnrollment makes s let guests in.
func (s *Server) prepareEnrollment() error {
	e := s.cfg.Enrollment
	if e == nil {
		return nil
	}
	switch {
	case e.CA == nil:
		return errors.New("enrollment: CA is missing")
	case s.cfg.TLS.ClientCAs == nil || s.cfg.TLS.GetConfigForClient != nil:
		return errors.New("enrollment: TLS needs ClientCAs, and no GetConfigForClient")
	case slices.Contains(e.Factory, nil):
		return errors.New("enrollment: a factory authority is nil")
	}
	s.operational = s.cfg.TLS.ClientCAs
	if len(e.Factory) > 0 {
		pool := s.operational.Clone()
		for _, c := range e.Factory {
			pool.AddCert(c)
		}
		s.cfg.TLS.ClientCAs = pool
	}
	return nil
}

// guest says that a verified peer is one, or nil.
func (s *Server) guest(cs tls.ConnectionState) (*guest, error) {
	e := s.cfg.Enrollment
	if e == nil {
		return nil, nil
	}
	if len(cs.PeerCertificates) == 0 { // TLS lets nobody else in without one
		return &guest{}, nil
	}
	if len(e.Factory) == 0 || s.isOperational(cs.PeerCertificates) == nil {
		return nil, nil
	}
	if cs.NegotiatedProtocol != proto.ALPNHTTP {
		return nil, fmt.Errorf("a factory certificate is for enrollment alone, over %s", proto.ALPNHTTP)
	}
	g := &guest{device: cs.PeerCertificates[0].Subject.SerialNumber}
	if err := proto.CheckName(g.device); err != nil {
		return nil, fmt.Errorf("the serialNumber of the factory certificate: %w", err)
	}
	return g, nil
}

// isOperational verifies a chain, leaf first, under the authorities of devices alone.
func (s *Server) isOperational(chain []*x509.Certificate) error {
	o := x509.VerifyOptions{
		Roots: s.operational, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if s.cfg.TLS.Time != nil {
		o.CurrentTime = s.cfg.TLS.Time()
	}
	for _, c := range chain[1:] {
		o.Intermediates.AddCert(c)
	}
	_, err := chain[0].Verify(o)
	return err
}

// checkIssued says why a certificate is not fit to be given to the device.
func (s *Server) checkIssued(r *EnrollRequest, chain []*x509.Certificate) error {
	switch {
	case len(chain) == 0:
		return errors.New("the authority gave no certificate")
	case !bytes.Equal(chain[0].RawSubjectPublicKeyInfo, r.CSR.RawSubjectPublicKeyInfo):
		return errors.New("the certificate is for another key")
	}
	if err := s.isOperational(chain); err != nil {
		return fmt.Errorf("the certificate would not be accepted from the device: %w", err)
	}
	id, err := s.cfg.Identify(tls.ConnectionState{PeerCertificates: chain})
	if err != nil || id != r.Device {
		return fmt.Errorf("the certificate would make the device %q: %w", id, errors.Join(err, errors.New("not the one that asked")))
	}
	return nil
}

// withEnrollment answers the EST paths of enrollment before the application, to
// which no guest gets.
func (s *Server) withEnrollment(app http.Handler) http.Handler {
	if app == nil {
		app = http.NotFoundHandler()
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, _ := r.Context().Value(peerKey{}).(*httpPeer)
		isGuest := p != nil && p.guest != nil
		switch {
		case isEnrollPath(r.URL.Path):
			s.serveEST(w, r)
		case isGuest:
			http.Error(w, "this certificate, or none, is for enrollment alone", http.StatusForbidden)
		default:
			app.ServeHTTP(w, r)
		}
	})
}

// enterGuest bounds how many guests there are, and for how long: room says whether
// this one may stay. leave is called when the peer has gone.
func (s *Server) enterGuest(p *httpPeer) (leave func(), room bool) {
	if p.guest == nil {
		return func() {}, true
	}
	s.mu.Lock()
	s.guests++
	room = s.guests <= maxGuests
	s.mu.Unlock()
	timer := time.AfterFunc(guestLifetime, p.Reset)
	return func() {
		timer.Stop()
		s.mu.Lock()
		s.guests--
		s.mu.Unlock()
	}, room
}
