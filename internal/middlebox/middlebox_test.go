package middlebox

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if n := leftGoroutines(); code == 0 && n > 0 {
		fmt.Printf("%d goroutines of the box are left\n", n)
		code = 1
	}
	if code != 0 {
		panic("tests failed") // with every stack
	}
}

// leftGoroutines waits a little for this package's goroutines to end.
func leftGoroutines() int {
	n := 0
	for range 100 {
		buf := make([]byte, 1<<20)
		stacks := string(buf[:runtime.Stack(buf, true)])
		if n = strings.Count(stacks, "middlebox.(*Proxy)"); n == 0 {
			return 0
		}
		time.Sleep(10 * time.Millisecond)
	}
	return n
}

func start(t *testing.T, c *Config) *Proxy {
	t.Helper()
	p, err := Listen("127.0.0.1:0", c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func browser(t *testing.T, p *Proxy, roots *x509.CertPool) *http.Client {
	tr := &http.Transport{Proxy: http.ProxyURL(p.URL()), TLSClientConfig: &tls.Config{RootCAs: roots}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 10 * time.Second}
}

func TestForgesCertificateOfItsOwnAuthority(t *testing.T) {
	real := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "hello from the real server")
	}))
	defer real.Close()
	p := start(t, &Config{Name: "Corporate Box", Record: 1 << 10})

	if _, err := browser(t, p, nil).Get(real.URL); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Fatalf("a client that does not trust the box got %v, want an unknown authority", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(p.CAPEM()) {
		t.Fatal("CAPEM is not a certificate")
	}
	resp, err := browser(t, p, roots).Get(real.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != "hello from the real server" {
		t.Fatalf("body %q, %v", body, err)
	}
	if got := resp.TLS.PeerCertificates[0].Issuer.CommonName; got != "Corporate Box" || got != p.Authority() {
		t.Errorf("issuer %q", got)
	}
	all := p.Exchanges()
	last := all[len(all)-1]
	if !strings.HasPrefix(string(last.Sent), "GET / HTTP/1.1\r\n") || !strings.Contains(string(last.Received), "hello from the real server") || last.Err != nil {
		t.Errorf("recorded %q, %q, %v", last.Sent, last.Received, last.Err)
	}
}

// echo upgrades a connection and echoes it until the client half-closes.
func echo(w http.ResponseWriter, r *http.Request) {
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer func() { _ = c.Close() }()
	_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
	_, _ = io.Copy(c, rw)
}

// upgraded is a connection to server through the box, after a 101.
func upgraded(t *testing.T, p *Proxy, server string) (*tls.Conn, *bufio.Reader) {
	t.Helper()
	raw, err := net.Dial("tcp", p.URL().Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = raw.Close() })
	_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = fmt.Fprintf(raw, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", server)
	br := bufio.NewReader(raw)
	if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != 200 {
		t.Fatalf("CONNECT: %v, %v", resp, err)
	}
	c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
	br = bufio.NewReader(c)
	if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != 101 {
		t.Fatalf("upgrade: %v, %v", resp, err)
	}
	return c, br
}

func TestPassesUpgradeThroughWithHalfClose(t *testing.T) {
	real := httptest.NewTLSServer(http.HandlerFunc(echo))
	defer real.Close()
	c, br := upgraded(t, start(t, nil), real.Listener.Addr().String())
	go func() {
		_, _ = io.WriteString(c, strings.Repeat("bytes", 100_000))
		_ = c.CloseWrite()
	}()
	got, err := io.ReadAll(br)
	if err != nil || len(got) != 500_000 {
		t.Fatalf("got %d bytes, %v", len(got), err)
	}
}

func TestCloseCutsConnectionsAndWaits(t *testing.T) {
	real := httptest.NewTLSServer(http.HandlerFunc(echo))
	defer real.Close()
	p := start(t, nil)
	_, br := upgraded(t, p, real.Listener.Addr().String())
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := br.ReadByte(); err == nil {
		t.Error("the connection outlived the box")
	}
	if err := p.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestTurnsAway(t *testing.T) {
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = gone.Close()
	for name, tc := range map[string]struct {
		head, want string
		conf       Config
	}{
		"other methods":       {head: "GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n", want: "405"},
		"a target no port":    {head: "CONNECT x HTTP/1.1\r\nHost: x\r\n\r\n", want: "400"},
		"a server not there":  {head: "CONNECT " + gone.Addr().String() + " HTTP/1.1\r\nHost: x\r\n\r\n", want: "502"},
		"a head without end":  {head: strings.Repeat("x", 2*maxHead), want: ""},
		"one too many client": {head: "", want: "", conf: Config{Conns: -1}},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, &tc.conf)
			c, err := net.Dial("tcp", p.URL().Host)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			_, _ = io.WriteString(c, tc.head)
			got, _ := io.ReadAll(c)
			if !strings.Contains(string(got), tc.want) || (tc.want == "" && len(got) > 0) {
				t.Errorf("answered %q, want %q", got, tc.want)
			}
		})
	}
}
