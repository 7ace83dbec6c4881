package server_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/internal/est"
	"github.com/atls-ws/atls-ws/internal/pki"
	"github.com/atls-ws/atls-ws/server"
)

func newCA(t *testing.T, name string) *pki.CA {
	t.Helper()
	ca, err := pki.NewCA(name)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// expired is an authority whose time is over.
func expired(t *testing.T) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Expired"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return c
}

// cacerts asks on a device's session and returns the status, type and body.
func (s *site) cacerts(t *testing.T, method, path string) (int, string, string) {
	t.Helper()
	sess := s.dial(t, s.config(t, "d"))
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return sess.Dial(ctx, server.ServiceHTTP) }}
	t.Cleanup(tr.CloseIdleConnections)
	req, err := http.NewRequestWithContext(t.Context(), method, "http://x"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("Content-Type"), string(body)
}

func TestOnlyFittingAnchorSetsAreServed(t *testing.T) {
	shown, other, beside := newCA(t, "Shown"), newCA(t, "Other"), newCA(t, "Beside")
	set := func(name string, certs ...*x509.Certificate) server.AnchorSet {
		return server.AnchorSet{Name: name, Certificates: certs}
	}
	app := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "app") })
	s := newSite(t, &server.Config{Handler: app, Anchors: []server.AnchorSet{
		set("other", other.Certificate()),
		set("plant", beside.Certificate(), expired(t), shown.Certificate()),
		set("again", shown.Certificate()),
	}})
	pair, err := shown.Server([]string{"any.example"}, 0)
	s.web.TLS.Certificates = []tls.Certificate{cert(t, pair, err)}

	code, typ, body := s.cacerts(t, http.MethodGet, est.CACertsPath)
	certs, err := est.DecodeBody([]byte(body))
	if code != http.StatusOK || typ != est.ContentType || err != nil {
		t.Fatalf("%d %s %q, %v", code, typ, body, err)
	}
	got := map[string]int{}
	for _, c := range certs {
		got[c.Subject.CommonName]++
	}
	if len(got) != 2 || got["Shown"] != 1 || got["Beside"] != 1 {
		t.Errorf("served: %v", got)
	}
	if code, _, body := s.cacerts(t, http.MethodGet, "/"); code != http.StatusOK || body != "app" {
		t.Errorf("the application: %d %q", code, body)
	}
	if code, _, _ := s.cacerts(t, http.MethodPost, est.CACertsPath); code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", code)
	}
}

func TestReportedAuthorityIsNotServed(t *testing.T) {
	s := newSite(t, &server.Config{Anchors: []server.AnchorSet{{Name: "other", Certificates: []*x509.Certificate{newCA(t, "Other").Certificate()}}}})
	shown := newCA(t, "Shown")
	pair, err := shown.Server([]string{"any.example"}, 0)
	c := cert(t, pair, err)
	c.Certificate = append(c.Certificate, shown.Certificate().Raw)
	s.web.TLS.Certificates = []tls.Certificate{c}
	code, typ, body := s.cacerts(t, http.MethodGet, est.CACertsPath)
	if code != http.StatusNotFound || typ != "application/problem+json" || !strings.Contains(body, est.NoAnchors) || !strings.Contains(body, "CN=Shown") {
		t.Errorf("%d %s %q", code, typ, body)
	}
	if code, _, _ := s.cacerts(t, http.MethodGet, "/"); code != http.StatusNotFound {
		t.Errorf("without an application: %d", code)
	}
}

func TestReportedCertificatesAreKeptOnlyToChooseAnchors(t *testing.T) {
	for _, anchors := range [][]server.AnchorSet{nil, {{Name: "a", Certificates: []*x509.Certificate{newCA(t, "A").Certificate()}}}} {
		s := newSite(t, &server.Config{Anchors: anchors})
		s.dial(t, s.config(t, "d"))
		sess, _ := s.srv.Registry().Get("d")
		if o := sess.Hello().Outer; o == nil || len(o.Chain) == 0 || (o.Chain[0].DER != nil) != (anchors != nil) {
			t.Errorf("with %d sets: %+v", len(anchors), o)
		}
	}
}

func TestNewRefusesWhatIsNoAnchor(t *testing.T) {
	ca := newCA(t, "CA")
	pair, err := ca.Server(nil, 0)
	c := cert(t, pair, err)
	good := []*x509.Certificate{ca.Certificate()}
	for want, sets := range map[string][]server.AnchorSet{
		"name":             {{Certificates: good}},
		"two of that name": {{Name: "a", Certificates: good}, {Name: "a", Certificates: good}},
		"no certificate":   {{Name: "a"}},
		"nil":              {{Name: "a", Certificates: []*x509.Certificate{nil}}},
		"not a CA":         {{Name: "a", Certificates: []*x509.Certificate{c.Leaf}}},
		"is there twice":   {{Name: "a", Certificates: append(good, good...)}},
	} {
		_, err := server.New(&server.Config{TLS: &tls.Config{Certificates: []tls.Certificate{c}, ClientCAs: ca.Pool()}, Anchors: sets})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestHTTPPeerHasReportedNothingToChooseAnchorsBy(t *testing.T) {
	s := newSite(t, &server.Config{Anchors: []server.AnchorSet{{Name: "a", Certificates: []*x509.Certificate{newCA(t, "A").Certificate()}}}})
	inner := s.httpPeer(t, carriers["websocket"](t, s), "meter-1")
	defer func() { _ = inner.Close() }()
	r, _ := http.NewRequest(http.MethodGet, "http://cloud"+est.CACertsPath, nil)
	if err := r.Write(inner); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(inner), r)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusNotFound || !strings.Contains(string(body), "reported no certificate chain") {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
}
