package outer

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
)

// The hop to whoever answers may accept anybody. A proxy gets a password.
func TestAnHTTPSProxyIsVerifiedHoweverLaxTheHopIs(t *testing.T) {
	var asked atomic.Int32
	proxy := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer proxy.Close()
	at, err := url.Parse(strings.Replace(proxy.URL, "https://", "https://me:secret@", 1))
	if err != nil {
		t.Fatal(err)
	}
	h := New(Options{TLS: &tls.Config{InsecureSkipVerify: true}, Proxy: http.ProxyURL(at)})
	defer h.Close()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://cloud.example/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := h.RoundTrip(r)
	if err == nil {
		_ = resp.Body.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "https proxy") || !strings.Contains(err.Error(), "certificate") || asked.Load() != 0 {
		t.Errorf("%v, %d requests", err, asked.Load())
	}
	// The same server for the other end of the hop.
	direct := New(Options{TLS: &tls.Config{InsecureSkipVerify: true}, Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }})
	defer direct.Close()
	r.URL, err = url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err = direct.RoundTrip(r); err != nil || asked.Load() != 1 {
		t.Fatalf("%v, %d requests", err, asked.Load())
	}
	_ = resp.Body.Close()
}
