package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/atls-ws/atls-ws/internal/answer"
	"github.com/atls-ws/atls-ws/internal/sealed"
	"github.com/atls-ws/atls-ws/internal/session"
)

// SealedError says that a request was not answered by the service, but on the
// way or by the keeper of the keys: whatever it says is nobody's word.
type SealedError struct {
	StatusCode int
	Problem    string // no-key, replayed, malformed, required, unavailable; "" when it is not of OpenSealed
	Text       string // the first of the body, printable
}

func (e *SealedError) Error() string {
	what := e.Text
	switch e.Problem {
	case "no-key":
		what = "the service does not know the session's key, or not any more"
	case "replayed":
		what = "the service had this request before"
	case "":
		what = fmt.Sprintf("not by the service: %q", what)
	}
	return fmt.Sprintf("sealed request: answered %d: %s", e.StatusCode, what)
}

// ErrSealed says that an answer is not what the service sent, or is not whole.
var ErrSealed = errors.New("sealed answer")

// SealedTransport sends HTTP requests outside the session to a service that
// knows the keys of it (server.OpenSealed). Headers and bodies are sealed in both
// directions; method, URL and status can be read on the way, and nothing changed
// unseen. The service answers each request once: a replay is refused, and one
// that was lost is not repeated here.
//
// Its RoundTrip may be called from any goroutine. Host is not sealed.
type SealedTransport struct {
	// Base sends the sealed requests; nil is http.DefaultTransport. It may go
	// through any proxy and need not trust anybody.
	Base http.RoundTripper

	session func(context.Context) (*Session, error)
}

// NewSealedTransport uses the keys of one session, which may have ended lately.
func NewSealedTransport(s *Session, base http.RoundTripper) *SealedTransport {
	return &SealedTransport{Base: base, session: func(context.Context) (*Session, error) { return s, nil }}
}

// SealedTransport uses the keys of the session that is up, waiting for one as
// long as the request's context lets it. A nil base goes the way of the
// session's outer hop: through Config.Proxy and under the policy of Config.Outer;
// the caller closes its idle connections.
func (c *Client) SealedTransport(base http.RoundTripper) *SealedTransport {
	if base == nil {
		base = newHop(c.cfg)
	}
	return &SealedTransport{Base: base, session: c.wait}
}

// CloseIdleConnections closes those of Base.
func (t *SealedTransport) CloseIdleConnections() {
	if c, ok := t.base().(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

func (t *SealedTransport) base() http.RoundTripper {
	if t.Base == nil {
		return http.DefaultTransport
	}
	return t.Base
}

// RoundTrip implements http.RoundTripper. An answer that is not the service's is
// an error: *SealedError, or ErrSealed. The end of a body is its error too.
func (t *SealedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	closeBody := func() {
		if req.Body != nil {
			_ = req.Body.Close()
		}
	}
	s, err := t.session(req.Context())
	if err != nil {
		closeBody()
		return nil, err
	}
	state := s.ConnectionState()
	keys, err := sealed.Derive(state.ExportKeyingMaterial)
	if err != nil {
		closeBody()
		return nil, err
	}
	counter := session.NextSealed(s)
	out, err := sealRequest(req, keys, counter)
	if err != nil {
		closeBody()
		return nil, fmt.Errorf("sealed request: %w", err)
	}
	resp, err := t.base().RoundTrip(out)
	if err != nil {
		return nil, err
	}
	opened, err := openAnswer(resp, req, keys, counter)
	if err != nil {
		_ = resp.Body.Close()
		return nil, err
	}
	return opened, nil
}

// sealRequest is req as it travels.
func sealRequest(req *http.Request, keys *sealed.Keys, counter uint64) (*http.Request, error) {
	method := req.Method
	if method == "" {
		method = http.MethodGet
	}
	s, err := keys.SealRequest(sealed.Request{Counter: counter, Method: method, Target: req.URL.RequestURI()}, req.Header)
	if err != nil {
		return nil, err
	}
	out := req.Clone(req.Context())
	out.Trailer, out.GetBody = nil, nil
	out.Header = http.Header{"Accept-Encoding": {sealed.Coding}, "User-Agent": {""}} // which tells net/http to add none of its own
	if req.Body == nil || req.Body == http.NoBody {
		v, err := s.Value()
		if err != nil {
			return nil, err
		}
		out.Header.Set(sealed.Header, v)
		return out, nil
	}
	out.Header.Set("Content-Type", "application/octet-stream")
	out.Header.Set("Content-Encoding", sealed.Coding)
	if out.ContentLength = -1; req.ContentLength > 0 {
		out.ContentLength = s.Size(req.ContentLength)
	}
	out.Body, err = s.Reader(req.Body)
	return out, err
}

// openAnswer is the service's answer in resp.
func openAnswer(resp *http.Response, req *http.Request, keys *sealed.Keys, counter uint64) (*http.Response, error) {
	body := io.Reader(resp.Body)
	value := resp.Header.Get(sealed.Header)
	switch {
	case value != "":
		var err error
		if body, err = sealed.FromValue(value); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrSealed, err)
		}
	case !strings.EqualFold(resp.Header.Get("Content-Encoding"), sealed.Coding):
		return nil, notSealed(resp)
	}
	m, err := keys.OpenAnswer(body, counter, resp.StatusCode)
	if err == nil && value != "" { // it must be whole
		_, err = io.Copy(io.Discard, m.Body)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSealed, err)
	}
	out := &http.Response{
		Status: fmt.Sprintf("%d %s", resp.StatusCode, http.StatusText(resp.StatusCode)), StatusCode: resp.StatusCode,
		Proto: resp.Proto, ProtoMajor: resp.ProtoMajor, ProtoMinor: resp.ProtoMinor,
		Header: m.Header, Body: &sealedBody{m.Body, resp.Body}, ContentLength: -1, Request: req,
	}
	if value != "" {
		_ = resp.Body.Close()
		out.Body, out.ContentLength = http.NoBody, 0
	}
	return out, nil
}

// sealedBody is the body of an answer; the one that it is opened from is closed
// with it.
type sealedBody struct {
	opened io.Reader
	coded  io.Closer
}

func (b *sealedBody) Read(p []byte) (int, error) {
	n, err := b.opened.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: %w", ErrSealed, err)
	}
	return n, err
}

func (b *sealedBody) Close() error { return b.coded.Close() }

func notSealed(resp *http.Response) error {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 2<<10)) // as much as there is
	e := &SealedError{StatusCode: resp.StatusCode}
	var problem struct{ Type, Title string }
	if json.Unmarshal(body, &problem) == nil {
		if kind, ok := strings.CutPrefix(problem.Type, sealed.Problem); ok {
			e.Problem, e.Text = clip(kind), clip(problem.Title)
			return e
		}
	}
	e.Text = clip(answer.Printable(string(body)))
	return e
}
