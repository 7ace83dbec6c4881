package est

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// ErrLater says that an answer is not there yet: 202 or 503.
var ErrLater = errors.New("the authority asks to come back later")

// StatusError is an answer that is a no.
type StatusError struct {
	StatusCode int
	Text       string // the first of the body; a stranger's
	Type       string // its content type
	RetryAfter time.Duration
}

func (e *StatusError) Error() string { return fmt.Sprintf("answered %d: %q", e.StatusCode, e.Text) }

// Is says that 202 and 503 match ErrLater.
func (e *StatusError) Is(target error) bool {
	return target == ErrLater && (e.StatusCode == http.StatusAccepted || e.StatusCode == http.StatusServiceUnavailable)
}

// Asker makes requests to an EST server.
type Asker struct {
	Transport http.RoundTripper
	URL       string        // ends in /
	User      *url.Userinfo // for HTTP Basic; nil: none
}

// CACerts asks for the authorities.
func (a *Asker) CACerts(ctx context.Context) ([]*x509.Certificate, error) {
	certs, _, err := a.ask(ctx, http.MethodGet, CACerts, nil)
	return certs, err
}

// Sign asks for a certificate: operation is Enroll or Reenroll. certs begins with
// one for the key of the request; date is the server's clock, zero when it says
// none.
func (a *Asker) Sign(ctx context.Context, operation string, csr []byte) (certs []*x509.Certificate, date time.Time, err error) {
	want, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, date, err
	}
	certs, date, err = a.ask(ctx, http.MethodPost, operation, csr)
	if err != nil {
		return nil, date, err
	}
	for i, c := range certs {
		if bytes.Equal(c.RawSubjectPublicKeyInfo, want.RawSubjectPublicKeyInfo) {
			certs[0], certs[i] = certs[i], certs[0]
			return certs, date, nil
		}
	}
	return nil, date, fmt.Errorf("%w: no certificate in it is for the key that was sent", ErrMalformed)
}

func (a *Asker) ask(ctx context.Context, method, operation string, csr []byte) (certs []*x509.Certificate, date time.Time, err error) {
	req, err := http.NewRequestWithContext(ctx, method, a.URL+operation, bytes.NewReader(EncodeCSR(csr)))
	if err != nil {
		return nil, date, err
	}
	if csr == nil {
		req.Body, req.ContentLength = http.NoBody, 0
	} else {
		req.Header.Set("Content-Type", CSRType)
		req.Header.Set("Content-Transfer-Encoding", "base64") // RFC 8951 ignores it, older servers want it
	}
	if a.User != nil {
		password, _ := a.User.Password()
		req.SetBasicAuth(a.User.Username(), password)
	}
	resp, err := a.Transport.RoundTrip(req) // no client: a redirect is an answer like any other
	if err != nil {
		return nil, date, err
	}
	defer func() { _ = resp.Body.Close() }()
	date, _ = http.ParseTime(resp.Header.Get("Date"))
	body, err := io.ReadAll(io.LimitReader(resp.Body, MaxBody+1))
	if err != nil {
		return nil, date, err
	}
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if resp.StatusCode != http.StatusOK {
		e := &StatusError{StatusCode: resp.StatusCode, Text: strings.TrimSpace(string(body[:min(len(body), 1<<10)])), Type: kind}
		if n, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 31); err == nil {
			e.RetryAfter = time.Duration(n) * time.Second
		}
		return nil, date, e
	}
	if kind != "application/pkcs7-mime" {
		return nil, date, fmt.Errorf("%w: content type %q", ErrMalformed, kind)
	}
	if len(body) > MaxBody {
		return nil, date, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, MaxBody)
	}
	der, err := base64.StdEncoding.AppendDecode(nil, body)
	if err != nil {
		return nil, date, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	certs, err = ParseCerts(der)
	return certs, date, err
}
