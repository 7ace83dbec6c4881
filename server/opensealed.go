package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/atls-ws/atls-ws/internal/sealed"
)

type sealedDeviceKey struct{}

// OpenSealed lets h answer the requests that devices seal with the keys of their
// sessions (client.SealedTransport): ordinary HTTP that any proxy passes, of
// which it can read and change nothing but the method and the URL, and those not
// unseen. Device gives the device of a request's context. Mount it in an ordinary
// web server; keys is the store of the Config of the servers that hold the
// sessions.
//
// What h sees of a request's header, and what comes of its own, was sealed. Its
// RemoteAddr, Host and the absence of TLS are those of the way. A body is
// authentic as far as it is read, and whole when its end is: h acts on it after
// that. A request is let through once; what is not sealed, or replayed, is
// answered here, unsealed.
//
// Config.Admit is not asked: a device that it refuses from now on can use its last
// key until that ends (Config.KeyLifetime). Where that is too long, h asks.
func OpenSealed(h http.Handler, keys KeyStore) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o, err := openRequest(r, keys)
		if err != nil {
			refuseSealed(w, err)
			return
		}
		aw := &sealedWriter{w: w, keys: o.keys, counter: o.message.Counter, head: r.Method == http.MethodHead, header: http.Header{}}
		h.ServeHTTP(aw, o.request(r))
		aw.close()
	})
}

// opened is a request whose fields are authentic.
type opened struct {
	key     *SealedKey
	keys    *sealed.Keys
	message *sealed.Message
	inField bool // the message came without a body
}

func openRequest(r *http.Request, keys KeyStore) (*opened, error) {
	body := io.Reader(r.Body)
	o := &opened{}
	value := r.Header.Get(sealed.Header)
	switch {
	case value != "" && r.ContentLength != 0:
		return nil, fmt.Errorf("%w: both a body and the field %s", sealed.ErrMalformed, sealed.Header)
	case value != "":
		var err error
		if body, err = sealed.FromValue(value); err != nil {
			return nil, err
		}
		o.inField = true
	case !strings.EqualFold(r.Header.Get("Content-Encoding"), sealed.Coding):
		return nil, errNotSealed
	}
	target, err := requestTarget(r)
	if err != nil {
		return nil, err
	}
	o.message, err = sealed.OpenRequest(body, r.Method, target, func(id sealed.ID) (*sealed.Keys, error) {
		var err error
		if o.key, err = keys.Get(r.Context(), encodeID(id)); err != nil {
			return nil, fmt.Errorf("%w: %w", errStore, err)
		}
		if len(o.key.Up) != len(o.keys.Up) || len(o.key.Down) != len(o.keys.Down) {
			return nil, fmt.Errorf("%w: a key of another length", errStore)
		}
		o.keys = &sealed.Keys{ID: id, Up: [32]byte(o.key.Up), Down: [32]byte(o.key.Down)}
		return o.keys, nil
	})
	if err != nil {
		return nil, err
	}
	if o.inField { // it must be whole
		if _, err := io.Copy(io.Discard, o.message.Body); err != nil {
			return nil, err
		}
	}
	// Only what is authentic uses up a counter: anybody can send others.
	if err := keys.Use(r.Context(), o.key.ID, o.message.Counter); err != nil {
		return nil, fmt.Errorf("%w: %w", errStore, err)
	}
	return o, nil
}

// requestTarget is the path and query as they came, whatever is in front of this handler.
func requestTarget(r *http.Request) (string, error) {
	if strings.HasPrefix(r.RequestURI, "/") || r.RequestURI == "*" {
		return r.RequestURI, nil
	}
	u, err := url.ParseRequestURI(r.RequestURI)
	if err != nil {
		return "", fmt.Errorf("%w: %w", sealed.ErrMalformed, err)
	}
	return u.RequestURI(), nil
}

// request is what the handler gets.
func (o *opened) request(r *http.Request) *http.Request {
	out := r.WithContext(context.WithValue(r.Context(), sealedDeviceKey{}, o.key.Device))
	out.Header, out.Trailer, out.TransferEncoding = o.message.Header, nil, nil
	out.TLS = nil // it ends wherever
	out.ContentLength = -1
	out.Body = struct {
		io.Reader
		io.Closer
	}{o.message.Body, r.Body}
	if o.inField {
		out.ContentLength, out.Body = 0, http.NoBody
	}
	return out
}

var (
	errNotSealed = errors.New("the request is not sealed")
	errStore     = errors.New("keys")
)

// refuseSealed answers what cannot be opened, which needs no secret.
func refuseSealed(w http.ResponseWriter, err error) {
	status, kind, title := http.StatusBadRequest, "malformed", "The sealed request cannot be opened"
	switch {
	case errors.Is(err, errNotSealed):
		status, kind, title = http.StatusUnsupportedMediaType, "required", "Only sealed requests are answered here"
		w.Header().Set("Accept-Encoding", sealed.Coding)
	case errors.Is(err, ErrNoKey):
		status, kind, title = http.StatusForbidden, "no-key", "The key is not known, or not any more: make a new session"
	case errors.Is(err, ErrReplayed):
		status, kind, title = http.StatusConflict, "replayed", "This request was answered before"
	case errors.Is(err, errStore):
		status, kind, title = http.StatusServiceUnavailable, "unavailable", "The keys cannot be looked up now"
		w.Header().Set("Retry-After", "1")
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"type": sealed.Problem + kind, "title": title, "status": status})
}

// sealedWriter seals an answer.
type sealedWriter struct {
	w       http.ResponseWriter
	keys    *sealed.Keys
	counter uint64
	head    bool // the request was HEAD
	header  http.Header
	status  int
	body    *sealed.Writer // nil: the answer has none
	err     error
}

// Header is that of the sealed answer.
func (w *sealedWriter) Header() http.Header { return w.header }

// WriteHeader begins the answer. 1xx is not passed on.
func (w *sealedWriter) WriteHeader(status int) {
	if w.status != 0 || status < 200 {
		return
	}
	w.status = status
	s, err := w.keys.SealAnswer(w.counter, status, w.header)
	if err != nil {
		w.fail(err)
		return
	}
	out := w.w.Header()
	out.Set("Cache-Control", "no-store, no-transform")
	if w.head || status == http.StatusNoContent || status == http.StatusNotModified {
		v, err := s.Value()
		if err != nil {
			w.fail(err)
			return
		}
		out.Set(sealed.Header, v)
		w.w.WriteHeader(status)
		return
	}
	out.Set("Content-Type", "application/octet-stream")
	out.Set("Content-Encoding", sealed.Coding)
	w.w.WriteHeader(status)
	w.body, w.err = s.Writer(w.w)
}

// fail answers in place of a handler whose answer cannot be sealed.
func (w *sealedWriter) fail(err error) {
	w.err = err
	http.Error(w.w, "the answer cannot be sealed", http.StatusInternalServerError)
}

func (w *sealedWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		if w.header.Get("Content-Type") == "" && w.header.Get("Content-Encoding") == "" {
			w.header.Set("Content-Type", http.DetectContentType(p))
		}
		w.WriteHeader(http.StatusOK)
	}
	switch {
	case w.err != nil:
		return 0, w.err
	case w.body == nil && w.head:
		return len(p), nil
	case w.body == nil:
		return 0, http.ErrBodyNotAllowed
	}
	return w.body.Write(p)
}

// FlushError sends what was written, padded; http.ResponseController calls it.
func (w *sealedWriter) FlushError() error {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.err != nil {
		return w.err
	}
	if w.body != nil {
		if err := w.body.Flush(); err != nil {
			return err
		}
	}
	return http.NewResponseController(w.w).Flush()
}

// Flush implements http.Flusher.
func (w *sealedWriter) Flush() { _ = w.FlushError() }

// close ends the answer. A handler that panics leaves it cut.
func (w *sealedWriter) close() {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.body != nil && w.err == nil {
		_ = w.body.Close() // nobody reads it any more
	}
}
