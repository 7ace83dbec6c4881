package client

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"time"

	"github.com/atls-ws/atls-ws/internal/answer"
	"github.com/atls-ws/atls-ws/internal/est"
	"github.com/atls-ws/atls-ws/internal/session"
)

const (
	serviceHTTP  = "http"           // where a server hosts its handler
	fetchTimeout = 15 * time.Second // less than a server lets a probe last
	maxHeader    = 16 << 10
)

// fetchAnchors asks the service for anchors, inside the session. Its answer is
// bounded and parsed, not yet believed.
func fetchAnchors(ctx context.Context, s *Session) ([]*x509.Certificate, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, fetchTimeout, fmt.Errorf("no answer within %s", fetchTimeout))
	defer cancel()
	tr := session.Transport(func(ctx context.Context) (net.Conn, error) { return s.Dial(ctx, serviceHTTP) })
	defer tr.CloseIdleConnections()
	tr.MaxResponseHeaderBytes = maxHeader
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://atls"+est.CACertsPath, nil)
	if err != nil {
		return nil, err
	}
	resp, err := tr.RoundTrip(req) // no client: a redirect is an answer like any other
	if refused := (*RefusedError)(nil); errors.As(err, &refused) && refused.Code == NotFound {
		return nil, fmt.Errorf("%w: it hosts no %s", ErrNoAnchors, serviceHTTP)
	}
	if err != nil {
		return nil, fmt.Errorf("asking for anchors: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, est.MaxBody+1))
	if err != nil {
		return nil, fmt.Errorf("asking for anchors: %w", err)
	}
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return nil, notFound(body)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("asking for anchors: answered %s: %q", resp.Status, answer.Printable(string(body)))
	}
	if t, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || t != "application/pkcs7-mime" {
		return nil, fmt.Errorf("%w: content type %q", ErrBundle, clip(resp.Header.Get("Content-Type")))
	}
	certs, err := est.DecodeBody(body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBundle, err)
	}
	return certs, nil
}

// notFound is ErrNoAnchors with the service's own words, if there are any.
func notFound(body []byte) error {
	var problem struct{ Type, Detail string }
	if json.Unmarshal(body, &problem) != nil || problem.Type != est.NoAnchors || problem.Detail == "" {
		return ErrNoAnchors
	}
	return fmt.Errorf("%w: it says: %s", ErrNoAnchors, answer.Printable(problem.Detail))
}
