package postconn

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// direct brings requests to a handler without a network, so that time can be
// faked.
type direct struct {
	h http.Handler

	mu    sync.Mutex
	posts int
	polls int
}

func (d *direct) RoundTrip(r *http.Request) (*http.Response, error) {
	d.mu.Lock()
	d.posts++
	if r.Header.Get("Prefer") != "" {
		d.polls++
	}
	d.mu.Unlock()
	in := r.Clone(r.Context())
	in.RequestURI, in.RemoteAddr = r.URL.RequestURI(), "192.0.2.1:1"
	if in.Body == nil {
		in.Body = http.NoBody
	}
	rec := httptest.NewRecorder()
	d.h.ServeHTTP(rec, in)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return rec.Result(), nil
}

func (d *direct) dial() *Conn {
	u, _ := url.Parse("http://server.example/.well-known/atls")
	return &newPoster(u, nil, d, func() {}).Conn
}

// inBubble runs a test in fake time with a handler and what its Accept got.
func inBubble(t *testing.T, ready bool, test func(t *testing.T, d *direct, h *Handler, conns <-chan *Conn)) {
	synctest.Test(t, func(t *testing.T) {
		conns := make(chan *Conn, 8)
		h := NewHandler(&HandlerOptions{Accept: func(c *Conn, _ *http.Request) {
			if ready {
				c.Established()
			}
			conns <- c
		}})
		test(t, &direct{h: h}, h, conns)
		_ = h.Close()
	})
}

// TestReadyTakesTwoPosts: the flights of a TLS 1.3 handshake, the client's first
// words and the answer to them.
func TestReadyTakesTwoPosts(t *testing.T) {
	certs := httptest.NewUnstartedServer(nil)
	certs.StartTLS()
	cert := certs.TLS.Certificates
	certs.Close()
	inBubble(t, false, func(t *testing.T, d *direct, _ *Handler, conns <-chan *Conn) {
		conn := d.dial()
		var serving sync.WaitGroup
		serving.Go(func() {
			s := <-conns
			c := tls.Server(s, &tls.Config{Certificates: cert, ClientAuth: tls.RequireAnyClientCert, VerifyConnection: func(tls.ConnectionState) error {
				time.Sleep(200 * time.Millisecond) // of fake time: somebody is asked
				return nil
			}})
			if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
				t.Error(err)
			}
			_, _ = io.WriteString(c, "ready")
			_, _ = c.Read(make([]byte, 1))
			_ = s.Close()
		})
		c := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, Certificates: cert})
		_, _ = io.WriteString(c, "hello")
		if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		if d.posts != 2 {
			t.Errorf("%d posts", d.posts)
		}
		_ = conn.Close()
		serving.Wait()
	})
}

// faulty answers by its function, or lets the request pass.
type faulty struct {
	http.Handler
	mu    sync.Mutex
	fault func(w http.ResponseWriter, r *http.Request) bool
}

func (f *faulty) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	fault := f.fault
	f.mu.Unlock()
	if fault == nil || !fault(w, r) {
		f.Handler.ServeHTTP(w, r)
	}
}

func (f *faulty) set(fault func(w http.ResponseWriter, r *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = fault
}

func TestClientRetriesForHalfAMinute(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		retry  bool
	}{
		{"bad gateway", 502, true}, {"timeout", 504, true}, {"busy", 429, true}, {"page", 200, true},
		{"unknown", 404, false}, {"malformed", 400, false}, {"redirect", 302, false}, {"forbidden", 403, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, true, func(t *testing.T, d *direct, h *Handler, conns <-chan *Conn) {
				f := &faulty{Handler: h}
				d.h = f
				c := d.dial()
				_, _ = c.Write([]byte("x"))
				s := <-conns
				_, _ = s.Read(make([]byte, 1))
				echo(t, s, c, "y")
				f.set(func(w http.ResponseWriter, _ *http.Request) bool {
					w.Header().Set("Content-Type", "text/html")
					w.WriteHeader(tt.status)
					_, _ = io.WriteString(w, "<p>")
					return true
				})
				if tt.retry {
					time.AfterFunc(20*time.Second, func() { f.set(nil) })
					echo(t, c, s, "still here")
					f.set(func(w http.ResponseWriter, _ *http.Request) bool {
						w.WriteHeader(tt.status)
						return true
					})
				}
				_, _ = c.Write([]byte("x"))
				_, err := c.Read(make([]byte, 1))
				var ae *AnswerError
				if !errors.As(err, &ae) || ae.StatusCode != tt.status || ae.Op != op {
					t.Errorf("%v", err)
				}
				if err := c.Close(); err != nil {
					t.Errorf("close after an error that was told: %v", err)
				}
			})
		})
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	inBubble(t, true, func(t *testing.T, d *direct, h *Handler, conns <-chan *Conn) {
		f := &faulty{Handler: h}
		d.h = f
		c := d.dial()
		_, _ = c.Write([]byte("x"))
		s := <-conns
		synctest.Wait()
		f.set(func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(503)
			f.set(nil)
			return true
		})
		begin := time.Now()
		_, _ = s.Read(make([]byte, 1))
		_, _ = c.Write([]byte("y"))
		_, _ = s.Read(make([]byte, 1))
		if d := time.Since(begin).Round(time.Second); d != 7*time.Second {
			t.Errorf("came after %s", d)
		}
		_ = c.Close()
	})
}

func TestPollsAreFewWhenPreferIsRemoved(t *testing.T) {
	inBubble(t, true, func(t *testing.T, d *direct, h *Handler, conns <-chan *Conn) {
		d.h = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Header.Del("Prefer")
			h.ServeHTTP(w, r)
		})
		c := d.dial()
		_, _ = c.Write([]byte("x"))
		_ = c.SetReadDeadline(time.Now().Add(time.Minute))
		_, _ = c.Read(make([]byte, 1))
		if d.posts > 70 {
			t.Errorf("%d requests in a minute", d.posts)
		}
		_ = c.Close()
		_ = (<-conns).Close()
	})
}

func TestSlowConsumerHoldsTheSenderBack(t *testing.T) {
	inBubble(t, true, func(t *testing.T, d *direct, _ *Handler, conns <-chan *Conn) {
		c := d.dial()
		_, _ = c.Write([]byte("x"))
		s := <-conns
		_, _ = s.Read(make([]byte, 1))
		for _, way := range []struct{ from, to *Conn }{{c, s}, {s, c}} {
			_ = way.from.SetWriteDeadline(time.Now().Add(time.Minute))
			sent, err := way.from.Write(make([]byte, 10<<20))
			if err == nil || sent > 2*maxWindow+MaxBody {
				t.Errorf("%d bytes are taken, %v", sent, err)
			}
			if _, err := io.ReadFull(way.to, make([]byte, sent)); err != nil {
				t.Errorf("then: %v", err)
			}
			_ = way.from.SetWriteDeadline(time.Time{})
			echo(t, way.from, way.to, "on")
		}
		_ = s.Close()
		_ = c.Close()
	})
}

func TestSilenceIsBoundedByTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &direct{h: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })}
		c := d.dial()
		_, _ = c.Write([]byte("x"))
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		begin := time.Now()
		if _, err := c.Read(make([]byte, 1)); err == nil || time.Since(begin) != time.Second {
			t.Errorf("%v after %s", err, time.Since(begin))
		}
		_ = c.SetReadDeadline(time.Time{})
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("without a deadline: %v", err)
		}
		_ = c.Close()

		c = d.dial()
		_, _ = c.Write([]byte("x"))
		begin = time.Now()
		if err := c.Close(); err == nil || time.Since(begin) != closeTimeout {
			t.Errorf("close: %v after %s", err, time.Since(begin))
		}
	})
}

func TestIdleConnKeepsNoBuffer(t *testing.T) {
	inBubble(t, true, func(t *testing.T, d *direct, _ *Handler, conns <-chan *Conn) {
		c := d.dial()
		_, _ = c.Write([]byte("x"))
		s := <-conns
		echo(t, c, s, "")
		_, _ = s.Read(make([]byte, 1))
		for _, way := range []struct{ from, to *Conn }{{c, s}, {s, c}} {
			go func() { _, _ = way.from.Write(make([]byte, 1<<20)) }()
			_, _ = io.ReadFull(way.to, make([]byte, 1<<20))
		}
		go func() { _, _ = c.Read(make([]byte, 1)) }()
		synctest.Wait()
		for _, c := range []*Conn{c, s} {
			c.mu.Lock()
			if c.in.chunks != nil || c.out.chunks != nil {
				t.Errorf("%d and %d bytes are kept", c.in.n, c.out.n)
			}
			c.mu.Unlock()
		}
		_ = c.Close()
		_ = s.Close()
	})
}

// TestBytesGoBesideAHeldPoll: one request is held, another brings bytes, and
// what comes back is the answer of the first.
func TestBytesGoBesideAHeldPoll(t *testing.T) {
	inBubble(t, true, func(t *testing.T, d *direct, _ *Handler, conns <-chan *Conn) {
		c := d.dial()
		_, _ = c.Write([]byte("x"))
		s := <-conns
		_, _ = s.Read(make([]byte, 1))
		go func() { _, _ = io.Copy(s, s) }()
		got := make(chan byte)
		go func() {
			b := make([]byte, 1)
			for range 10 {
				_, _ = c.Read(b)
				got <- b[0]
			}
		}()
		begin := time.Now()
		for i := range byte(10) {
			synctest.Wait()
			_, _ = c.Write([]byte{i})
			if b := <-got; b != i {
				t.Errorf("%d, want %d", b, i)
			}
		}
		if d := time.Since(begin); d != 0 {
			t.Errorf("ten round trips took %s beside those of the network", d)
		}
		_ = c.Close()
		_ = s.Close()
	})
}
