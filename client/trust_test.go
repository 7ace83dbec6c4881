package client_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/est"
	"github.com/atls-ws/atls-ws/internal/middlebox"
	"github.com/atls-ws/atls-ws/internal/pki"
	"github.com/atls-ws/atls-ws/server"
)

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// site is a service, whose outer certificate is of outer, and a device's folder.
type site struct {
	t         *testing.T
	ca, outer *pki.CA
	url       string
	srv       *server.Server
	file      string
	system    *x509.CertPool // what the device trusts of itself
	proxy     *url.URL
}

func newSite(t *testing.T, c *server.Config) *site {
	s := &site{
		t: t, ca: must[*pki.CA](t)(pki.NewCA("Inner CA")), outer: must[*pki.CA](t)(pki.NewCA("Outer CA")),
		file: filepath.Join(t.TempDir(), "bundle.pem"), system: x509.NewCertPool(),
	}
	pair := must[*pki.Pair](t)(s.ca.Server(nil, 0))
	s.url, s.srv = s.serve(c, pair, s.outer)
	return s
}

// serve starts a server with an inner certificate and an outer authority.
func (s *site) serve(c *server.Config, inner *pki.Pair, outer *pki.CA) (string, *server.Server) {
	s.t.Helper()
	c.TLS = &tls.Config{Certificates: []tls.Certificate{must[tls.Certificate](s.t)(inner.TLS())}, ClientCAs: s.ca.Pool()}
	srv := must[*server.Server](s.t)(server.New(c))
	pair := must[*pki.Pair](s.t)(outer.Server([]string{"127.0.0.1"}, 0))
	web := httptest.NewUnstartedServer(srv)
	web.TLS = &tls.Config{NextProtos: []string{"http/1.1"}, Certificates: []tls.Certificate{must[tls.Certificate](s.t)(pair.TLS())}}
	web.StartTLS()
	s.t.Cleanup(func() { _ = srv.Close(); web.Close() })
	return web.URL, srv
}

func (s *site) config() *client.Config {
	s.t.Helper()
	pair := must[*pki.Pair](s.t)(s.ca.Device("pump-7", 0))
	return &client.Config{
		URL: s.url, Carrier: client.CarrierWebSocket,
		TLS:   &tls.Config{RootCAs: s.ca.Pool(), ServerName: pki.ServerName, Certificates: []tls.Certificate{must[tls.Certificate](s.t)(pair.TLS())}},
		Proxy: func(*http.Request) (*url.URL, error) { return s.proxy, nil },
	}
}

func (s *site) bootstrap() (*client.Trust, error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	return client.Bootstrap(ctx, s.config(), &client.BootstrapOptions{File: s.file, SystemRoots: s.system})
}

// bundle is the file's bytes, nil when it is not there, and that nothing is
// left beside it.
func (s *site) bundle() []byte {
	s.t.Helper()
	all, err := os.ReadDir(filepath.Dir(s.file))
	if err != nil || len(all) > 1 {
		s.t.Errorf("left beside the bundle: %v, %v", all, err)
	}
	data, err := os.ReadFile(s.file)
	if err != nil && !os.IsNotExist(err) {
		s.t.Error(err)
	}
	return data
}

// get is an ordinary HTTPS client of the device, with the bundle alone.
func (s *site) get(target string) (string, error) {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.bundle())
	tr := &http.Transport{Proxy: http.ProxyURL(s.proxy), TLSClientConfig: &tls.Config{RootCAs: pool}}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Get(target)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

func box(t *testing.T, name string) (*middlebox.Proxy, *x509.Certificate) {
	t.Helper()
	p := must[*middlebox.Proxy](t)(middlebox.Listen("127.0.0.1:0", &middlebox.Config{Name: name}))
	t.Cleanup(func() { _ = p.Close() })
	block, _ := pem.Decode(p.CAPEM())
	return p, must[*x509.Certificate](t)(x509.ParseCertificate(block.Bytes))
}

func TestBootstrapMakesOrdinaryClientsWorkThroughAMiddlebox(t *testing.T) {
	before, beforeCA := box(t, "Box 2025")
	after, afterCA := box(t, "Box 2026")
	_, otherCA := box(t, "Another network's box")
	s := newSite(t, &server.Config{Anchors: []server.AnchorSet{
		{Name: "other", Certificates: []*x509.Certificate{otherCA}},
		{Name: "plant", Certificates: []*x509.Certificate{beforeCA, afterCA}},
	}})
	page := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "a page") }))
	defer page.Close()
	s.proxy = before.URL()
	if body, err := s.get(page.URL); err == nil {
		t.Fatalf("without a bundle: %q", body)
	}

	trust, err := s.bootstrap()
	if err != nil {
		t.Fatal(err)
	}
	if trust.Issuer != "CN=Box 2025" || trust.System || trust.Known || !trust.Served || !trust.Changed || trust.File != s.file || len(trust.Anchors) != 2 {
		t.Errorf("first: %+v", trust)
	}
	if body, err := s.get(page.URL); err != nil || body != "a page" {
		t.Errorf("with the bundle: %q, %v", body, err)
	}
	if strings.Contains(string(s.bundle()), "Another") {
		t.Error("another network's anchors are in the bundle")
	}
	if info, err := os.Stat(s.file); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("%v, %v", info.Mode(), err)
	}

	first := s.bundle()
	if trust, err = s.bootstrap(); err != nil || trust.Changed || !trust.Known || trust.System || !bytes.Equal(s.bundle(), first) {
		t.Errorf("again: %+v, %v", trust, err)
	}

	s.proxy = after.URL() // the box rolls over to its new authority
	if body, err := s.get(page.URL); err != nil || body != "a page" {
		t.Errorf("after the roll-over: %q, %v", body, err)
	}
	if trust, err = s.bootstrap(); err != nil || trust.Issuer != "CN=Box 2026" || !trust.Known || trust.Changed {
		t.Errorf("after the roll-over: %+v, %v", trust, err)
	}
}

func TestBootstrapReplacesABundleWhenTheSetHasANewAuthority(t *testing.T) {
	oldBox, oldCA := box(t, "Old")
	newBox, newCA := box(t, "New")
	s := newSite(t, &server.Config{Anchors: []server.AnchorSet{{Name: "plant", Certificates: []*x509.Certificate{oldCA, newCA}}}})
	// The operator knew only the old authority when this bundle was written.
	if err := os.WriteFile(s.file, oldBox.CAPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	s.proxy = oldBox.URL()
	// The chain verifies, so that an ordinary session would not report it.
	if trust, err := s.bootstrap(); err != nil || !trust.Known || !trust.Changed || len(trust.Anchors) != 2 {
		t.Fatalf("%+v, %v", trust, err)
	}
	s.proxy = newBox.URL()
	if trust, err := s.bootstrap(); err != nil || !trust.Known || trust.Changed {
		t.Errorf("%+v, %v", trust, err)
	}
}

func TestBootstrapWithoutAnchors(t *testing.T) {
	p, ca := box(t, "Box")
	_, otherCA := box(t, "Other")
	for name, cfg := range map[string]*server.Config{
		"nothing hosted": {},
		"hosted, no EST": {Handler: http.NotFoundHandler()},
		"none that fits": {Anchors: []server.AnchorSet{{Name: "other", Certificates: []*x509.Certificate{otherCA}}}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, cfg)
			s.proxy = p.URL()
			if trust, err := s.bootstrap(); !errors.Is(err, client.ErrNoAnchors) {
				t.Errorf("behind the box: %+v, %v", trust, err)
			} else if name == "none that fits" && !strings.Contains(err.Error(), `issued by \"CN=Box\"`) && !strings.Contains(err.Error(), `issued by "CN=Box"`) {
				t.Errorf("the issuer is not said: %v", err)
			}
			if s.bundle() != nil {
				t.Error("a bundle was written")
			}
			// Where the outer TLS verifies already, none are needed.
			s.system = x509.NewCertPool()
			s.system.AddCert(ca)
			if trust, err := s.bootstrap(); err != nil || trust.Served || trust.Changed || !trust.System || !trust.Known || len(trust.Anchors) != 0 {
				t.Errorf("verified: %+v, %v", trust, err)
			}
			if s.bundle() != nil {
				t.Error("an empty bundle was written")
			}
		})
	}
}

// A certificate that the device met is no reason to trust it.
func TestReportedCertificateIsNeverServed(t *testing.T) {
	_, otherCA := box(t, "Other")
	s := newSite(t, &server.Config{Anchors: []server.AnchorSet{{Name: "other", Certificates: []*x509.Certificate{otherCA}}}})
	shown, _ := box(t, "Shown") // its self-signed CA is part of the chain that it shows
	s.proxy = shown.URL()
	if _, err := s.bootstrap(); !errors.Is(err, client.ErrNoAnchors) || s.bundle() != nil {
		t.Errorf("%v", err)
	}
}

// handed is a service whose answer a test writes.
func handed(t *testing.T, header, body string, status int) *server.Config {
	return &server.Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != est.CACertsPath {
			t.Errorf("asked for %s", r.URL.Path)
		}
		w.Header().Set("Content-Type", header)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	})}
}

func TestBootstrapRefusesABadBundleAndKeepsTheOld(t *testing.T) {
	p, ca := box(t, "Box")
	_, wrong := box(t, "Wrong")
	der := must[[]byte](t)(est.Marshal([]*x509.Certificate{ca}))
	good := base64.StdEncoding.EncodeToString(der)
	flipped := bytes.Clone(der)
	flipped[len(flipped)-20] ^= 1 // in the signature
	leafPair := must[*pki.Pair](t)(must[*pki.CA](t)(pki.NewCA("x")).Server(nil, 0))
	block, _ := pem.Decode(leafPair.CertPEM)
	leaf := must[*x509.Certificate](t)(x509.ParseCertificate(block.Bytes))
	enc := func(certs ...*x509.Certificate) string { return string(must[[]byte](t)(est.EncodeBody(certs))) }
	for name, tc := range map[string]struct {
		header, body string
		status       int
		bundle       bool // the error is ErrBundle
		ok           bool
	}{
		"right":             {est.ContentType, good, 200, false, true},
		"right with CRLF":   {est.ContentType, good[:64] + "\r\n" + good[64:] + "\r\n", 200, false, true},
		"of another box":    {est.ContentType, enc(wrong), 200, true, false},
		"a leaf":            {est.ContentType, enc(ca, leaf), 200, true, false},
		"tampered":          {est.ContentType, base64.StdEncoding.EncodeToString(flipped), 200, true, false},
		"oversized":         {est.ContentType, strings.Repeat("A", est.MaxBody+4), 200, true, false},
		"not base64":        {est.ContentType, "-----BEGIN", 200, true, false},
		"empty":             {est.ContentType, "", 200, true, false},
		"a page":            {"text/html", good, 200, true, false},
		"a redirect":        {est.ContentType, good, 302, false, false},
		"a server in pains": {est.ContentType, good, 500, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, handed(t, tc.header, tc.body, tc.status))
			s.proxy = p.URL()
			_, oldCA := box(t, "Old")
			old := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: oldCA.Raw})
			if err := os.WriteFile(s.file, old, 0o600); err != nil {
				t.Fatal(err)
			}
			trust, err := s.bootstrap()
			if (err == nil) != tc.ok || errors.Is(err, client.ErrBundle) != tc.bundle {
				t.Errorf("%+v, %v", trust, err)
			}
			if now := s.bundle(); bytes.Equal(now, old) == tc.ok {
				t.Errorf("bundle:\n%s", now)
			}
		})
	}
}

func TestBootstrapRefusesAnchorsThatDoNotFitEvenWhereTheSystemsDo(t *testing.T) {
	p, ca := box(t, "Box")
	_, wrong := box(t, "Wrong")
	s := newSite(t, handed(t, est.ContentType, string(must[[]byte](t)(est.EncodeBody([]*x509.Certificate{wrong}))), 200))
	s.proxy = p.URL()
	s.system.AddCert(ca)
	if trust, err := s.bootstrap(); !errors.Is(err, client.ErrBundle) || s.bundle() != nil {
		t.Errorf("%+v, %v", trust, err)
	}
}

func TestBootstrapProvesTheBundleWithANewConnection(t *testing.T) {
	first, firstCA := box(t, "First")
	second, _ := box(t, "Second")
	s := newSite(t, &server.Config{Anchors: []server.AnchorSet{{Name: "plant", Certificates: []*x509.Certificate{firstCA}}}})
	c := s.config()
	asked := 0
	c.Proxy = func(*http.Request) (*url.URL, error) { // two boxes that take turns
		if asked++; asked == 1 {
			return first.URL(), nil
		}
		return second.URL(), nil
	}
	_, err := client.Bootstrap(t.Context(), c, &client.BootstrapOptions{File: s.file, SystemRoots: s.system})
	if !errors.Is(err, client.ErrUnproven) || s.bundle() != nil || asked < 2 {
		t.Errorf("%v after %d connections", err, asked)
	}
}

func TestBootstrapLeavesOtherFilesAlone(t *testing.T) {
	p, ca := box(t, "Box")
	s := newSite(t, &server.Config{Anchors: []server.AnchorSet{{Name: "plant", Certificates: []*x509.Certificate{ca}}}})
	s.proxy = p.URL()
	key := must[*pki.Pair](t)(s.ca.Device("d", 0)).KeyPEM
	for name, data := range map[string][]byte{"a key": key, "notes": []byte("call the plant\n"), "a system's": bytes.Repeat(p.CAPEM(), 40)} {
		if err := os.WriteFile(s.file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.bootstrap(); !errors.Is(err, client.ErrNotBundle) || !bytes.Equal(s.bundle(), data) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.file = filepath.Join(t.TempDir(), "none", "bundle.pem")
	if _, err := s.bootstrap(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
}

// What is trusted outside is worth nothing inside.
func TestMiddleboxWithAnInnerCertificateOfItsOwnIsRefused(t *testing.T) {
	boxCA := must[*pki.CA](t)(pki.NewCA("Box"))
	s := newSite(t, &server.Config{})
	// The box answers itself: outer and inner certificate are the anchor's.
	inner := must[*pki.Pair](t)(boxCA.Server(nil, 0))
	s.url, _ = s.serve(&server.Config{Anchors: []server.AnchorSet{{Name: "box", Certificates: []*x509.Certificate{boxCA.Certificate()}}}}, inner, boxCA)
	if err := os.WriteFile(s.file, boxCA.CertPEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	var unknown x509.UnknownAuthorityError
	if trust, err := s.bootstrap(); !errors.As(err, &unknown) || !strings.Contains(err.Error(), "inner handshake") {
		t.Errorf("%+v, %v", trust, err)
	}
	c := s.config()
	c.Outer = &client.OuterConfig{Roots: boxCA.Pool()}
	if sess, err := client.Dial(t.Context(), c); !errors.As(err, &unknown) || !strings.Contains(err.Error(), "inner handshake") {
		t.Errorf("%v, %v", sess, err)
	}
}

func TestBootstrapLeavesTheDevicesSessionUp(t *testing.T) {
	p, ca := box(t, "Box")
	s := newSite(t, &server.Config{Anchors: []server.AnchorSet{{Name: "plant", Certificates: []*x509.Certificate{ca}}}})
	s.proxy = p.URL()
	sess := must[*client.Session](t)(client.Dial(t.Context(), s.config()))
	defer func() { _ = sess.Close() }()
	if _, err := s.bootstrap(); err != nil {
		t.Fatal(err)
	}
	if got, ok := s.srv.Registry().Get("pump-7"); !ok || got.ID() != sess.ID() || sess.Err() != nil {
		t.Errorf("%v, %v", ok, sess.Err())
	}
}

func TestOuterVerifyChecksTheNameOfAnAddress(t *testing.T) {
	s := newSite(t, &server.Config{})
	pair := must[*pki.Pair](t)(s.outer.Server([]string{"elsewhere.example"}, 0))
	web := httptest.NewUnstartedServer(http.NotFoundHandler())
	web.TLS = &tls.Config{Certificates: []tls.Certificate{must[tls.Certificate](t)(pair.TLS())}}
	web.StartTLS()
	defer web.Close()
	c := s.config()
	c.URL, c.Outer = web.URL, &client.OuterConfig{Policy: client.OuterVerify, Roots: s.outer.Pool()}
	var name x509.HostnameError
	if _, err := client.Dial(t.Context(), c); !errors.As(err, &name) {
		t.Error(err)
	}
}

func TestBootstrapOverPlainHTTPHasNothingToTrust(t *testing.T) {
	s := newSite(t, &server.Config{})
	web := httptest.NewServer(s.srv)
	t.Cleanup(func() { _ = s.srv.Close(); web.Close() })
	s.url = web.URL
	if _, err := s.bootstrap(); !errors.Is(err, client.ErrNoOuterTLS) {
		t.Error(err)
	}
}
