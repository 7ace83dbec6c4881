package server

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/atls-ws/atls-ws/internal/est"
)

const bodyTimeout = 10 * time.Second // for a device's request to arrive

func isEnrollPath(path string) bool { return strings.HasPrefix(path, est.DevicePath) }

// enrollError is a no to a device.
type enrollError struct {
	status int
	err    error
}

func (e *enrollError) Error() string { return e.err.Error() }
func (e *enrollError) Unwrap() error { return e.err }

func deny(status int, format string, args ...any) error {
	return &enrollError{status, fmt.Errorf(format, args...)}
}

// serveEST is enrollment over secure transport: RFC 7030 sections 4.1, 4.2 and
// 4.5, in the encoding of RFC 8951.
func (s *Server) serveEST(w http.ResponseWriter, r *http.Request) {
	operation := strings.TrimPrefix(r.URL.Path, est.DevicePath)
	method := map[string]string{
		est.CACerts: http.MethodGet, est.Attributes: http.MethodGet, est.Enroll: http.MethodPost, est.Reenroll: http.MethodPost,
	}[operation]
	ctx, cancel := context.WithTimeout(r.Context(), enrollTimeout)
	defer cancel()
	var body []byte
	var err error
	contentType := est.ContentType
	switch {
	case method == "":
		err = deny(http.StatusNotFound, "no operation %q: want cacerts, csrattrs, simpleenroll or simplereenroll", operation)
	case r.Method != method && (method != http.MethodGet || r.Method != http.MethodHead):
		w.Header().Set("Allow", method)
		err = deny(http.StatusMethodNotAllowed, "%s is not for %s", r.Method, operation)
	case operation == est.CACerts:
		body, err = s.caCerts(ctx)
	case operation == est.Attributes:
		contentType = est.AttributesType
		body, err = est.EncodeAttributes()
	default:
		body, err = s.enroll(ctx, w, r, operation == est.Reenroll)
	}
	if err != nil {
		s.denyEST(w, r, operation, err)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(body) // an error means that nobody reads it
}

func (s *Server) caCerts(ctx context.Context) ([]byte, error) {
	certs, err := s.cfg.Enrollment.CA.CACerts(ctx)
	if err != nil {
		return nil, err
	}
	return est.EncodeBody(certs)
}

// enroll signs what a device asks for.
func (s *Server) enroll(ctx context.Context, w http.ResponseWriter, r *http.Request, again bool) ([]byte, error) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
	text, err := io.ReadAll(io.LimitReader(r.Body, est.MaxCSR+1))
	if err != nil {
		return nil, deny(http.StatusBadRequest, "the body: %w", err)
	}
	req := new(EnrollRequest)
	if req.CSR, err = est.DecodeCSR(text); err != nil {
		return nil, deny(http.StatusBadRequest, "%w", err)
	}
	if err := s.whoEnrolls(ctx, w, r, req); err != nil {
		return nil, err
	}
	if err := s.admit(req.Device, *r.TLS); err != nil { // who would not get in needs no certificate
		return nil, deny(http.StatusForbidden, "%s", textOf(err))
	}
	if again && req.By != ByCertificate {
		return nil, deny(http.StatusForbidden, "only the certificate that it is about can be renewed: use %s", est.Enroll)
	}
	if s.cfg.Enrollment.Allow != nil {
		if err := s.cfg.Enrollment.Allow(ctx, req); err != nil {
			return nil, deny(http.StatusForbidden, "%w", err)
		}
	}
	chain, err := s.cfg.Enrollment.CA.Issue(ctx, req)
	if err == nil {
		err = s.checkIssued(req, chain)
	}
	if err != nil {
		return nil, err
	}
	s.cfg.Logger.Info("device enrolled", "device", req.Device, "by", req.By,
		"serial", chain[0].SerialNumber.Text(16), "not_after", chain[0].NotAfter.UTC().Format(time.RFC3339))
	return est.EncodeBody(chain)
}

// whoEnrolls sets the device of req, once its identity and the names that it asks
// for are proven to be one. A token is used up last.
func (s *Server) whoEnrolls(ctx context.Context, w http.ResponseWriter, r *http.Request, req *EnrollRequest) error {
	var token string
	p, _ := r.Context().Value(peerKey{}).(*httpPeer)
	switch {
	case p == nil || p.guest == nil:
		req.Device, _ = Device(r.Context())
		req.By = ByCertificate
	case p.guest.device != "":
		req.Device, req.By = p.guest.device, ByFactory
	default:
		var ok bool
		if req.Device, token, ok = r.BasicAuth(); !ok || token == "" {
			w.Header().Set("Www-Authenticate", `Basic realm="enrollment", charset="UTF-8"`)
			return deny(http.StatusUnauthorized, "no certificate, and no token: the device's id and its token belong into HTTP Basic")
		}
		req.By = ByToken
	}
	if req.Device == "" {
		return deny(http.StatusForbidden, "no device")
	}
	if err := est.CheckNames(req.CSR, req.Device); err != nil {
		return deny(http.StatusForbidden, "%w", err)
	}
	if req.By != ByToken {
		return nil
	}
	if err := s.cfg.Enrollment.Token(ctx, req.Device, token, sha256.Sum256(req.CSR.RawSubjectPublicKeyInfo)); err != nil {
		w.Header().Set("Www-Authenticate", `Basic realm="enrollment", charset="UTF-8"`)
		w.Header().Set("Connection", "close") // each guess costs a handshake
		return deny(http.StatusUnauthorized, "%w", err)
	}
	return nil
}

// denyEST answers no. What the authority said is for the log alone.
func (s *Server) denyEST(w http.ResponseWriter, r *http.Request, operation string, err error) {
	status, detail := http.StatusServiceUnavailable, "the authority cannot sign now; ask the service's operator to look into the server's log"
	if e := (*enrollError)(nil); errors.As(err, &e) {
		status, detail = e.status, e.Error()
	} else {
		w.Header().Set("Retry-After", "60")
	}
	device, ok := Device(r.Context())
	if p, _ := r.Context().Value(peerKey{}).(*httpPeer); !ok && p != nil {
		device = p.device
	}
	s.cfg.Logger.Warn("enrollment refused", "device", device, "operation", operation, "status", status, "err", err)
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"type": est.NotEnrolled, "title": "No certificate", "status": status, "detail": detail,
	})
}
