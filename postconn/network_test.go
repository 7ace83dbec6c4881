package postconn

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// storm is a proxy that does to requests what networks do, by a seeded choice.
// The first request of a connection passes.
type storm struct {
	to string // URL of the server

	mu     sync.Mutex
	rng    *rand.Rand
	old    []*kept
	counts map[string]int
	wg     sync.WaitGroup
}

type kept struct {
	header http.Header
	body   []byte
}

func (s *storm) choose() (what string, delay time.Duration, replay *kept) {
	s.mu.Lock()
	defer s.mu.Unlock()
	what = []string{"pass", "pass", "pass", "pass", "pass", "lose request", "lose answer", "504", "twice", "twice at once"}[s.rng.IntN(10)]
	if s.rng.IntN(3) == 0 {
		delay = time.Duration(s.rng.IntN(20)) * time.Millisecond
		s.counts["delay"]++
	}
	if s.rng.IntN(5) == 0 && len(s.old) > 0 {
		replay = s.old[s.rng.IntN(len(s.old))]
		s.counts["replay"]++
	}
	s.counts[what]++
	return what, delay, replay
}

func (s *storm) forward(r *http.Request, k *kept) (*http.Response, []byte, error) {
	req, err := http.NewRequestWithContext(r.Context(), http.MethodPost, s.to, bytes.NewReader(k.body))
	if err != nil {
		return nil, nil, err
	}
	req.Header = k.header.Clone()
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return resp, body, err
}

func (s *storm) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	k := &kept{r.Header.Clone(), body}
	what := "pass"
	if r.Header.Get(sessionHeader) != "" {
		var delay time.Duration
		var replay *kept
		what, delay, replay = s.choose()
		if replay != nil {
			s.wg.Go(func() { _, _, _ = s.forward(r.Clone(r.Context()), replay) })
		}
		select { // others overtake it
		case <-time.After(delay):
		case <-r.Context().Done():
		}
		s.mu.Lock()
		s.old = append(s.old, k)
		s.mu.Unlock()
	}
	switch what {
	case "lose request":
		panic(http.ErrAbortHandler)
	case "twice":
		held := k.header.Clone()
		if held.Get("Prefer") != "" {
			held.Set("Prefer", "wait=0")
		}
		_, _, _ = s.forward(r, &kept{held, k.body})
	case "twice at once":
		s.wg.Go(func() { _, _, _ = s.forward(r.Clone(r.Context()), k) })
	}
	resp, answer, err := s.forward(r, k)
	switch {
	case err != nil, what == "504":
		w.WriteHeader(http.StatusGatewayTimeout)
		return
	case what == "lose answer":
		panic(http.ErrAbortHandler)
	}
	for key, v := range resp.Header {
		w.Header()[key] = v
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = w.Write(answer)
}

// exchange sends n bytes each way at the same time and closes.
func exchange(t *testing.T, c, s *Conn, n int, rng *rand.ChaCha8) {
	t.Helper()
	var all sync.WaitGroup
	for _, d := range []struct {
		name     string
		from, to *Conn
	}{{"up", c, s}, {"down", s, c}} {
		data := make([]byte, n)
		_, _ = rng.Read(data)
		all.Go(func() {
			if _, err := d.from.Write(data); err != nil {
				t.Errorf("%s: write: %v", d.name, err)
			}
		})
		all.Go(func() {
			got := make([]byte, n)
			k, err := io.ReadFull(d.to, got)
			if err != nil || sha256.Sum256(got) != sha256.Sum256(data) {
				t.Errorf("%s: not what was written, %d bytes, %v", d.name, k, err)
			}
		})
	}
	all.Wait()
}

func TestStormyNetwork(t *testing.T) {
	for i := range 3 {
		seed := rand.Uint64()
		if i == 0 {
			seed = 1
		}
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			srv, _, conns := listen(t, false)
			box := &storm{to: srv.URL, rng: rand.New(rand.NewPCG(seed, 0)), counts: map[string]int{}}
			proxy := httptest.NewUnstartedServer(box)
			proxy.Config.ErrorLog = nil
			proxy.Start()
			c, s := dial(t, proxy.URL, dialOptions(proxy), conns)
			exchange(t, c, s, 4<<20, rand.NewChaCha8([32]byte{byte(seed)}))
			_ = s.Close()
			if _, err := c.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("end: %v", err)
			}
			_ = c.Close()
			proxy.Close()
			box.wg.Wait()
			t.Log(box.counts)
			for _, what := range []string{"lose request", "lose answer", "twice", "twice at once", "504", "delay", "replay"} {
				if box.counts[what] == 0 {
					t.Errorf("no %q happened", what)
				}
			}
		})
	}
}

// buffering is a proxy that speaks HTTP/1.0 to the server, on a connection per
// request, buffers both bodies, and cuts what takes long.
type buffering struct {
	to  string // host:port
	cut time.Duration

	mu   sync.Mutex
	cuts int
}

func (b *buffering) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	out, err := net.Dial("tcp", b.to)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer func() { _ = out.Close() }()
	_ = out.SetDeadline(time.Now().Add(b.cut))
	var head strings.Builder
	fmt.Fprintf(&head, "POST / HTTP/1.0\r\nContent-Length: %d\r\n", len(body))
	_ = r.Header.WriteSubset(&head, map[string]bool{"Content-Length": true, "Connection": true})
	_, _ = io.WriteString(out, head.String()+"\r\n"+string(body))
	resp, err := http.ReadResponse(bufio.NewReader(out), r)
	if err != nil {
		b.mu.Lock()
		b.cuts++
		b.mu.Unlock()
		w.WriteHeader(http.StatusGatewayTimeout)
		return
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.ContentLength != int64(len(answer)) {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	for key, v := range resp.Header {
		w.Header()[key] = v
	}
	w.Header().Set("Connection", "close")
	w.WriteHeader(resp.StatusCode)
	_, _ = w.Write(answer)
}

func TestBufferingProxyOfHTTP10(t *testing.T) {
	srv, _, conns := listen(t, false)
	box := &buffering{to: srv.Listener.Addr().String(), cut: 300 * time.Millisecond}
	proxy := httptest.NewServer(box)
	defer proxy.Close()
	c, s := dial(t, proxy.URL, dialOptions(proxy), conns)
	exchange(t, c, s, 1<<20, rand.NewChaCha8([32]byte{}))
	read := make(chan error)
	go func() {
		_, err := io.ReadFull(c, make([]byte, 4))
		read <- err
	}()
	for cuts := 0; cuts < 2; { // of polls that nothing answers
		box.mu.Lock()
		cuts = box.cuts
		box.mu.Unlock()
		<-time.After(time.Millisecond)
	}
	_, _ = io.WriteString(s, "late")
	if err := <-read; err != nil {
		t.Error(err)
	}
	_ = s.Close()
	_ = c.Close()
}

// plainCarrier is what a client needs who has a TLS stack and an HTTP client.
type plainCarrier struct {
	net.Conn
	url, cookie string
	out, in     bytes.Buffer
	posts       int
}

func (p *plainCarrier) Write(b []byte) (int, error) { return p.out.Write(b) }

func (p *plainCarrier) Read(b []byte) (int, error) {
	for p.in.Len() == 0 {
		req, _ := http.NewRequest(http.MethodPost, p.url, bytes.NewReader(p.out.Bytes()))
		req.Header.Set("Content-Type", ContentType)
		if p.cookie != "" {
			req.Header.Set("Cookie", p.cookie)
		}
		p.posts++
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, err
		}
		p.out.Reset()
		if c := resp.Cookies(); len(c) > 0 {
			p.cookie = c[0].Name + "=" + c[0].Value
		}
		_, err = io.Copy(&p.in, resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || resp.ContentLength < 0 {
			return 0, fmt.Errorf("answered %s, %v", resp.Status, err)
		}
		if resp.Header.Get(finHeader) != "" && p.in.Len() == 0 {
			return 0, io.EOF
		}
	}
	return p.in.Read(b)
}

func TestPlainClientRunsTLS(t *testing.T) {
	certs := httptest.NewUnstartedServer(nil)
	certs.StartTLS()
	defer certs.Close()
	srv, _, conns := listen(t, false)
	served := make(chan error)
	go func() {
		c := tls.Server(<-conns, &tls.Config{Certificates: certs.TLS.Certificates})
		_, err := io.CopyN(c, c, 11)
		_ = c.Close()
		served <- err
	}()
	p := &plainCarrier{url: srv.URL}
	c := tls.Client(p, &tls.Config{InsecureSkipVerify: true})
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(c, "hello ")
	_, _ = io.WriteString(c, "world")
	got, err := io.ReadAll(c)
	if err != nil || string(got) != "hello world" {
		t.Errorf("%q %v", got, err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if p.posts < 2 {
		t.Errorf("%d posts", p.posts)
	}
}
