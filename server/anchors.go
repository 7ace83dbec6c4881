package server

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/atls-ws/atls-ws/internal/est"
	"github.com/atls-ws/atls-ws/internal/outer"
	"github.com/atls-ws/atls-ws/internal/proto"
)

// AnchorSet is what the owner of one network says its middleboxes sign with.
type AnchorSet struct {
	// Name of the set, in logs.
	Name string
	// Certificates are CAs up to their roots, as the old and the new one of a
	// roll-over. They are served together, less what is not valid at the time.
	Certificates []*x509.Certificate
}

const (
	maxChain   = 8    // certificates of a reported chain that are looked at
	maxRSABits = 8192 // of their keys, as in crypto/tls: larger ones are costly to verify with
)

// anchors are the configured sets.
type anchors []AnchorSet

// newAnchors checks the sets and copies them.
func newAnchors(sets []AnchorSet) (anchors, error) {
	seen := map[string]bool{}
	for _, set := range sets {
		if err := proto.CheckName(set.Name); err != nil {
			return nil, fmt.Errorf("anchors: name: %w", err)
		}
		if seen[set.Name] {
			return nil, fmt.Errorf("anchors %s: there are two of that name", set.Name)
		}
		seen[set.Name] = true
		if err := est.CheckSet(set.Certificates); err != nil {
			return nil, fmt.Errorf("anchors %s: %w", set.Name, err)
		}
	}
	all := slices.Clone(sets)
	for i := range all {
		all[i].Certificates = slices.Clone(all[i].Certificates)
	}
	return all, nil
}

// fitting are the sets under which chain validates now. Which name the leaf
// has does not matter: the device compares that itself.
func (a anchors) fitting(chain []*x509.Certificate, now time.Time) (fit anchors) {
	for _, set := range a {
		set.Certificates = est.Current(set.Certificates, now)
		if est.CheckSet(set.Certificates) != nil {
			continue // an issuer has expired before what it signed
		}
		pool := x509.NewCertPool()
		for _, c := range set.Certificates {
			pool.AddCert(c)
		}
		if outer.Verify(chain, "", pool) == nil {
			fit = append(fit, set)
		}
	}
	return fit
}

// answer is the body for the sets, each certificate once, and the names of the
// sets in it. A set for which there is no room is left out.
func (a anchors) answer() (body []byte, names []string) {
	var certs []*x509.Certificate
	for _, set := range a {
		more := certs
		for _, c := range set.Certificates {
			if !slices.ContainsFunc(more, c.Equal) {
				more = append(more, c)
			}
		}
		if b, err := est.EncodeBody(more); err == nil {
			certs, body, names = more, b, append(names, set.Name)
		}
	}
	return body, names
}

var errNoHost = errors.New("anchors are served at the service http, and the server was made without one")

var errNotReported = errors.New("the device reported no certificate chain of its outer hop")

// reportedChain is the chain that the device of a request met. It is a
// stranger's, and used for nothing but to choose a set.
func reportedChain(r *http.Request) (chain []*x509.Certificate, err error) {
	s, ok := FromContext(r.Context())
	if !ok || s.Hello().Outer == nil {
		return nil, errNotReported
	}
	reported := s.Hello().Outer.Chain
	for _, oc := range reported[:min(len(reported), maxChain)] {
		if oc.DER == nil {
			break
		}
		c, err := x509.ParseCertificate(oc.DER)
		if err != nil {
			return nil, fmt.Errorf("the chain that the device reported: %w", err)
		}
		if k, ok := c.PublicKey.(*rsa.PublicKey); ok && k.N.BitLen() > maxRSABits {
			return nil, fmt.Errorf("the chain that the device reported: an RSA key of more than %d bits", maxRSABits)
		}
		chain = append(chain, c)
	}
	if len(chain) == 0 {
		return nil, errNotReported
	}
	return chain, nil
}

// withAnchors answers the EST path before the application, which may be nil.
func (s *Server) withAnchors(app http.Handler) http.Handler {
	if app == nil {
		app = http.NotFoundHandler()
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != est.CACertsPath || len(*s.anchors.Load()) == 0 {
			app.ServeHTTP(w, r)
			return
		}
		s.serveAnchors(w, r)
	})
}

// serveAnchors is /cacerts of RFC 7030 section 4.1, with an answer that depends
// on what the device met.
func (s *Server) serveAnchors(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	device, _ := Device(r.Context())
	log := s.cfg.Logger.With("device", device)
	chain, err := reportedChain(r)
	if err != nil {
		log.Info("no anchors served", "err", err)
		noAnchors(w, err.Error()+"; without it there is nothing to choose anchors by")
		return
	}
	issuer := chain[0].Issuer.String()
	body, names := s.anchors.Load().fitting(chain, time.Now()).answer()
	if len(names) == 0 {
		log.Warn("no anchors fit what the device met", "outer_issuer", issuer)
		noAnchors(w, fmt.Sprintf("no configured anchors validate the chain that the device met, issued by %q; "+
			"if its network is to be trusted, get the CA's certificate from the owner of the network and add it to the server's anchors", issuer))
		return
	}
	for _, name := range names {
		log.Info("anchors served", "set", name, "outer_issuer", issuer)
	}
	w.Header().Set("Content-Type", est.ContentType)
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(body) // an error means that nobody reads it
}

// noAnchors is the answer to a device for which there are none (RFC 9457).
func noAnchors(w http.ResponseWriter, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNotFound)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"type": est.NoAnchors, "title": "No trust anchors for this network", "status": http.StatusNotFound, "detail": detail,
	})
}

// SetAnchors replaces the sets of Config.Anchors. Devices that have connected
// before there were any have not said what they met, and are told so.
func (s *Server) SetAnchors(sets []AnchorSet) error {
	all, err := newAnchors(sets)
	if err != nil {
		return err
	}
	if s.hosted == nil && len(all) > 0 {
		return errNoHost
	}
	s.anchors.Store(&all)
	return nil
}
