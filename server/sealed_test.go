package server_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/middlebox"
	"github.com/atls-ws/atls-ws/internal/sealed"
	"github.com/atls-ws/atls-ws/server"
)

// roundTripper is a way that changes what passes.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// sealedSite is a service for sealed requests, and the session whose keys a
// device seals them with.
type sealedSite struct {
	t    *testing.T
	api  *httptest.Server
	keys server.KeyStore
	sess *client.Session
	seen []string // bodies that the handler read, with the error
}

func newSealedSite(t *testing.T, cfg *server.Config) *sealedSite {
	if cfg.Keys == nil {
		cfg.Keys = server.NewMemoryKeys(0)
	}
	s := &sealedSite{t: t, keys: cfg.Keys}
	in := newSite(t, cfg)
	s.sess = in.dial(t, in.config(t, "pump-7"))
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		device, _ := server.Device(r.Context())
		body, err := io.ReadAll(r.Body)
		s.seen = append(s.seen, fmt.Sprint(string(body), " ", err))
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Header().Set("X-Device", device)
		w.Header().Set("X-Was", r.Header.Get("X-Is"))
		w.WriteHeader(http.StatusAccepted)
		_, _ = w.Write(body)
	})
	mux.HandleFunc("/none", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Etag", `"1"`)
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("/live", func(w http.ResponseWriter, r *http.Request) {
		for i := range 3 {
			_, _ = fmt.Fprintf(w, "part %d", i)
			_ = http.NewResponseController(w).Flush()
		}
		<-r.Context().Done() // the client has seen it all before the end
	})
	mux.HandleFunc("/cut", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat("x", 10_000))
		panic(http.ErrAbortHandler)
	})
	s.api = httptest.NewTLSServer(server.OpenSealed(mux, s.keys))
	t.Cleanup(s.api.Close)
	return s
}

// do sends a request by way of base; nil is the straight one.
func (s *sealedSite) do(base http.RoundTripper, method, path, body string) (*http.Response, string, error) {
	s.t.Helper()
	if base == nil {
		base = s.api.Client().Transport
	}
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, s.api.URL+path, r)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("X-Is", "a secret")
	resp, err := client.NewSealedTransport(s.sess, base).RoundTrip(req)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	got, err := io.ReadAll(resp.Body)
	return resp, string(got), err
}

func TestSealedRequestsPassAMiddleboxUnread(t *testing.T) {
	s := newSealedSite(t, &server.Config{})
	box, err := middlebox.Listen("127.0.0.1:0", &middlebox.Config{Record: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = box.Close() })
	tr := s.api.Client().Transport.(*http.Transport).Clone()
	tr.Proxy = http.ProxyURL(box.URL())
	tr.TLSClientConfig.RootCAs.AppendCertsFromPEM(box.CAPEM())
	t.Cleanup(tr.CloseIdleConnections)
	long := strings.Repeat("a confidential line\n", 10_000)
	for _, body := range []string{"", "a secret", long} {
		resp, got, err := s.do(tr, http.MethodPut, "/echo?q=1", body)
		if err != nil || got != body || resp.StatusCode != http.StatusAccepted || resp.Header.Get("X-Device") != "pump-7" || resp.Header.Get("X-Was") != "a secret" {
			t.Fatalf("%d bytes: %v, %d bytes, %v", len(body), resp, len(got), err)
		}
	}
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		if resp, got, err := s.do(tr, method, "/none", ""); err != nil || resp.StatusCode != http.StatusNoContent || got != "" || resp.Header.Get("Etag") != `"1"` {
			t.Errorf("%s: %v, %q, %v", method, resp, got, err)
		}
	}
	all := box.Exchanges()
	if len(all) == 0 {
		t.Fatal("nothing went through the box")
	}
	for _, e := range all {
		if !bytes.Contains(e.Sent, []byte("PUT /echo?q=1")) || len(e.Received) == 0 {
			t.Errorf("the box saw no request: %.200q", e.Sent)
		}
		for _, secret := range []string{"secret", "confidential", "pump-7", "X-Is"} {
			if bytes.Contains(e.Sent, []byte(secret)) || bytes.Contains(e.Received, []byte(secret)) {
				t.Errorf("the box read %q", secret)
			}
		}
	}
}

func TestSealedAnswerStreams(t *testing.T) {
	s := newSealedSite(t, &server.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.api.URL+"/live", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.NewSealedTransport(s.sess, s.api.Client().Transport).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	got := make([]byte, len("part 0part 1part 2"))
	if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != "part 0part 1part 2" {
		t.Errorf("%q, %v", got, err)
	}
	if resp.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Error(resp.Header)
	}
}

// problem is that of an error which did not come from the service.
func problem(err error) string {
	var e *client.SealedError
	if errors.As(err, &e) {
		return fmt.Sprint(e.StatusCode, " ", e.Problem)
	}
	return fmt.Sprint(err)
}

func TestSealedRequestIsRefusedWhenAnythingOfItIsChanged(t *testing.T) {
	s := newSealedSite(t, &server.Config{})
	straight := s.api.Client().Transport
	long := strings.Repeat("x", 20_000)
	coded := func(change func([]byte) []byte) func(*http.Request) {
		return func(r *http.Request) {
			b, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			b = change(b)
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
		}
	}
	const head, record = 16 + 4 + 1 + 24, 4096
	for name, change := range map[string]func(*http.Request){
		"method":             func(r *http.Request) { r.Method = http.MethodPatch },
		"path":               func(r *http.Request) { r.URL.Path = "/none" },
		"query":              func(r *http.Request) { r.URL.RawQuery = "admin=1" },
		"body, first record": coded(func(b []byte) []byte { b[head] ^= 1; return b }),
		"counter":            coded(func(b []byte) []byte { b[head-1] ^= 64; return b }),
		"record size":        coded(func(b []byte) []byte { b[18] ^= 1; return b }),
		"head alone":         coded(func(b []byte) []byte { return b[:head] }),
		"less than a head":   coded(func(b []byte) []byte { return b[:head-3] }),
		"records in another order": coded(func(b []byte) []byte {
			c := bytes.Clone(b)
			copy(c[head:], b[head+record:head+2*record])
			copy(c[head+record:], b[head:head+record])
			return c
		}),
	} {
		_, _, err := s.do(roundTripper(func(r *http.Request) (*http.Response, error) {
			change(r)
			return straight.RoundTrip(r)
		}), http.MethodPost, "/echo", long)
		if problem(err) != "400 malformed" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(s.seen) > 0 {
		t.Errorf("the handler saw %.100q", s.seen)
	}
	// What is wrong behind the first record is seen when it is read.
	for name, change := range map[string]func([]byte) []byte{
		"body, third record": func(b []byte) []byte { b[head+2*record] ^= 1; return b },
		"a record less":      func(b []byte) []byte { return append(b[:head+record:head+record], b[head+2*record:]...) },
		"cut":                func(b []byte) []byte { return b[:len(b)-1] },
		"cut at a record":    func(b []byte) []byte { return b[:head+2*record] },
		"longer":             func(b []byte) []byte { return append(b, 0) },
	} {
		s.seen = nil
		resp, _, err := s.do(roundTripper(func(r *http.Request) (*http.Response, error) {
			coded(change)(r)
			return straight.RoundTrip(r)
		}), http.MethodPost, "/echo", long)
		if err != nil || resp.StatusCode != http.StatusBadRequest || len(s.seen) != 1 || strings.HasSuffix(s.seen[0], "<nil>") {
			t.Errorf("%s: %v, %v, the handler saw %.60q", name, resp, err, s.seen)
		}
	}
	for name, change := range map[string]func(*http.Request){
		"not sealed":  func(r *http.Request) { r.Header.Del("Content-Encoding") },
		"twice coded": func(r *http.Request) { r.Header.Set("Content-Encoding", "aes128gcm, gzip") },
	} {
		_, _, err := s.do(roundTripper(func(r *http.Request) (*http.Response, error) {
			change(r)
			return straight.RoundTrip(r)
		}), http.MethodPost, "/echo", "x")
		if problem(err) != "415 required" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSealedRequestIsAnsweredOnce(t *testing.T) {
	s := newSealedSite(t, &server.Config{})
	straight := s.api.Client().Transport
	var kept *http.Request
	var body []byte
	again := func() int {
		r := kept.Clone(t.Context())
		r.Body = io.NopCloser(bytes.NewReader(body))
		resp, err := straight.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	_, _, err := s.do(roundTripper(func(r *http.Request) (*http.Response, error) {
		body, _ = io.ReadAll(r.Body)
		kept = r.Clone(t.Context())
		r.Body = io.NopCloser(bytes.NewReader(body))
		return straight.RoundTrip(r)
	}), http.MethodPost, "/echo", "pay 10")
	if err != nil {
		t.Fatal(err)
	}
	if got := again(); got != http.StatusConflict || len(s.seen) != 1 {
		t.Errorf("replayed: %d, the handler saw %q", got, s.seen)
	}
	// A forged counter far ahead uses up nothing.
	ahead := bytes.Clone(body)
	body[16+4+1+16] ^= 0x80
	if got := again(); got != http.StatusBadRequest {
		t.Errorf("forged: %d", got)
	}
	body = ahead
	if _, got, err := s.do(nil, http.MethodPost, "/echo", "on"); err != nil || got != "on" {
		t.Errorf("afterwards: %q, %v", got, err)
	}
	if got := again(); got != http.StatusConflict {
		t.Errorf("replayed later: %d", got)
	}
}

func TestSealedAnswerIsRefusedWhenAnythingOfItIsChanged(t *testing.T) {
	s := newSealedSite(t, &server.Config{})
	straight := s.api.Client().Transport
	whole := func(r *http.Request) (*http.Response, []byte) {
		resp, err := straight.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Error(err)
		}
		_ = resp.Body.Close()
		resp.Body = io.NopCloser(bytes.NewReader(b))
		return resp, b
	}
	var first []byte
	for _, c := range []struct {
		name   string
		change func(resp *http.Response, body []byte) []byte
	}{
		{"kept", func(_ *http.Response, b []byte) []byte { first = bytes.Clone(b); return append(b, 0) }},
		{"that of another request", func(*http.Response, []byte) []byte { return first }},
		{"status", func(resp *http.Response, b []byte) []byte { resp.StatusCode = http.StatusOK; return b }},
		{"body", func(_ *http.Response, b []byte) []byte { b[len(b)-1] ^= 1; return b }},
		{"cut", func(_ *http.Response, b []byte) []byte { return b[:len(b)-1] }},
		{"empty", func(*http.Response, []byte) []byte { return nil }},
	} {
		_, _, err := s.do(roundTripper(func(r *http.Request) (*http.Response, error) {
			resp, b := whole(r)
			resp.Body = io.NopCloser(bytes.NewReader(c.change(resp, b)))
			return resp, nil
		}), http.MethodPost, "/echo", "text")
		if !errors.Is(err, client.ErrSealed) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	_, _, err := s.do(roundTripper(func(r *http.Request) (*http.Response, error) {
		resp, _ := whole(r)
		resp.StatusCode, resp.Header = http.StatusBadGateway, http.Header{}
		resp.Body = io.NopCloser(strings.NewReader("<h1>portal</h1>\x1b"))
		return resp, nil
	}), http.MethodPost, "/echo", "text")
	var e *client.SealedError
	if !errors.As(err, &e) || e.StatusCode != http.StatusBadGateway || e.Problem != "" || strings.Contains(e.Text, "\x1b") {
		t.Errorf("a portal: %v", err)
	}
	if _, _, err := s.do(nil, http.MethodGet, "/cut", ""); err == nil {
		t.Error("an answer that the handler broke off passes")
	}
}

// The outer hop of the session is good enough: it need not be trusted.
func TestClientSealsOverItsOuterHop(t *testing.T) {
	keys := server.NewMemoryKeys(0)
	in := newSite(t, &server.Config{Keys: keys})
	api := httptest.NewTLSServer(server.OpenSealed(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		device, _ := server.Device(r.Context())
		_, _ = io.WriteString(w, r.Method+" of "+device)
	}), keys))
	t.Cleanup(api.Close)
	c, err := client.New(in.config(t, "pump-7"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	var running sync.WaitGroup
	running.Go(func() { _ = c.Run(ctx) })
	defer running.Wait()
	defer cancel()
	tr := c.SealedTransport(nil)
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, api.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "GET of pump-7" {
		t.Errorf("%q, %v", b, err)
	}
}

// A peer with a TLS stack and nothing else does the handshake, and then sends
// ordinary requests.
func TestPeerOfTheHTTPProtocolSeals(t *testing.T) {
	store := server.NewMemoryKeys(0)
	in := newSite(t, &server.Config{Keys: store, Handler: http.NotFoundHandler()})
	conn := in.httpPeer(t, carriers["post"](t, in), "meter-1")
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest(http.MethodHead, "http://x/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := req.Write(conn); err != nil {
		t.Fatal(err)
	}
	if _, err := http.ReadResponse(bufio.NewReader(conn), req); err != nil { // the server has taken it
		t.Fatal(err)
	}
	state := conn.ConnectionState()
	keys, err := sealed.Derive(state.ExportKeyingMaterial)
	if err != nil {
		t.Fatal(err)
	}
	s, err := keys.SealRequest(sealed.Request{Counter: 1, Method: "GET", Target: "/x"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodGet, "/x", nil)
	value, err := s.Value()
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set(sealed.Header, value)
	w := httptest.NewRecorder()
	server.OpenSealed(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		device, _ := server.Device(r.Context())
		_, _ = io.WriteString(w, device)
	}), store).ServeHTTP(w, r)
	m, err := keys.OpenAnswer(w.Body, 1, w.Code)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(m.Body); err != nil || string(b) != "meter-1" {
		t.Errorf("%q, %v", b, err)
	}
}
