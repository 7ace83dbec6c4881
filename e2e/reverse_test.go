//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// reverse is a box of our own: it terminates TLS, and behind it is the server.
// around decides what it passes.
func reverse(around func(pass *httputil.ReverseProxy) http.Handler) func(*testing.T, *site) hop {
	return func(t *testing.T, s *site) hop {
		transport := &http.Transport{}
		t.Cleanup(transport.CloseIdleConnections)
		box := httptest.NewUnstartedServer(around(&httputil.ReverseProxy{
			Rewrite:       func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", s.addr },
			Transport:     transport,
			FlushInterval: -1,
			ErrorLog:      log.New(io.Discard, "", 0),
		}))
		box.Config.ErrorLog = log.New(io.Discard, "", 0)
		box.StartTLS()
		t.Cleanup(box.Close)
		return hop{url: "wss://" + box.Listener.Addr().String() + path}
	}
}

// passing is a box that passes everything, but answers differ on the way.
func passing(change func(*http.Response) error) func(*testing.T, *site) hop {
	return reverse(func(pass *httputil.ReverseProxy) http.Handler {
		pass.ModifyResponse = change
		return pass
	})
}

func isUpgrade(r *http.Request) bool { return r.Header.Get("Upgrade") != "" }

// toUpgrades answers upgrades by itself.
func toUpgrades(h http.HandlerFunc) func(*testing.T, *site) hop {
	return reverse(func(pass *httputil.ReverseProxy) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if isUpgrade(r) {
				h(w, r)
				return
			}
			pass.ServeHTTP(w, r)
		})
	})
}

// toAll answers everything by itself.
func toAll(h http.HandlerFunc) func(*testing.T, *site) hop {
	return reverse(func(*httputil.ReverseProxy) http.Handler { return h })
}

func page(code int, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(code)
		_, _ = io.WriteString(w, "<html><title>Hotel guests</title>Please log in to use this network.</html>")
	}
}

func noUpgrade(pass http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Upgrade")
		pass.ServeHTTP(w, r)
	})
}

// closing strips upgrades and closes the connection after each reply, at both
// sides.
func closing(pass *httputil.ReverseProxy) http.Handler {
	pass.Transport.(*http.Transport).DisableKeepAlives = true
	return noUpgrade(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		pass.ServeHTTP(w, r)
	}))
}

// cut ends the bodies of some answers in the middle, which the client sees for
// they were to be longer.
func cut(which func(n int64) bool) func(*testing.T, *site) hop {
	return reverse(func(pass *httputil.ReverseProxy) http.Handler {
		var posts atomic.Int64
		pass.ModifyResponse = func(r *http.Response) error {
			if r.ContentLength > 0 && which(posts.Add(1)) {
				r.Body = &cutBody{r.Body, r.ContentLength / 2}
			}
			return nil
		}
		return noUpgrade(pass)
	})
}

type cutBody struct {
	io.ReadCloser
	left int64
}

func (c *cutBody) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, errors.New("cut") // the reverse proxy then aborts
	}
	n, err := c.ReadCloser.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}

// halveAnswers makes all answers half as long, and says so in their length.
func halveAnswers(pass *httputil.ReverseProxy) http.Handler {
	pass.ModifyResponse = func(r *http.Response) error {
		if r.StatusCode == http.StatusOK && r.ContentLength > 0 {
			r.Body, r.ContentLength = half(r.Body, r.ContentLength)
			r.Header.Set("Content-Length", fmt.Sprint(r.ContentLength))
		}
		return nil
	}
	return noUpgrade(pass)
}

// halveRequests does so with requests.
func halveRequests(pass *httputil.ReverseProxy) http.Handler {
	return noUpgrade(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength > 0 {
			r.Body, r.ContentLength = half(r.Body, r.ContentLength)
		}
		pass.ServeHTTP(w, r)
	}))
}

func half(body io.Reader, length int64) (io.ReadCloser, int64) {
	b, _ := io.ReadAll(body)
	b = b[:min(int(length+1)/2, len(b))]
	return io.NopCloser(bytes.NewReader(b)), int64(len(b))
}

// twice sends each request a second time, and that answer back.
func twice(pass *httputil.ReverseProxy) http.Handler {
	return noUpgrade(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Header.Get("Atls-Session") == "" { // a second first request is a second session
			r.Body = io.NopCloser(bytes.NewReader(body))
			pass.ServeHTTP(w, r)
			return
		}
		for _, to := range []http.ResponseWriter{httptest.NewRecorder(), w} {
			again := r.Clone(r.Context())
			again.Body = io.NopCloser(bytes.NewReader(body))
			pass.ServeHTTP(to, again)
		}
	}))
}

// flip changes one bit of what a connection or a body carries, now and then.
func flip(webSocket, post bool) func(*testing.T, *site) hop {
	return passing(func(r *http.Response) error {
		switch {
		case r.StatusCode == http.StatusSwitchingProtocols && webSocket:
			r.Body = &flipper{body: r.Body}
		case r.Request.Method == http.MethodPost && post && r.ContentLength > 0:
			r.Body = &flipper{body: r.Body}
		}
		return nil
	})
}

// flipper flips a bit in the last byte of each read and, if it is a connection,
// of each write.
type flipper struct{ body io.ReadCloser }

func (f *flipper) Read(p []byte) (int, error) {
	n, err := f.body.Read(p)
	if n > 0 {
		p[n-1] ^= 4
	}
	return n, err
}

func (f *flipper) Write(p []byte) (int, error) {
	p = bytes.Clone(p)
	p[len(p)-1] ^= 4
	return f.body.(io.Writer).Write(p)
}

func (f *flipper) Close() error { return f.body.Close() }

// old speaks HTTP/1.0 to the server, buffers both bodies and gives up on what
// takes long.
func old(pass *httputil.ReverseProxy) http.Handler {
	const patienceOfBox = 5 * time.Second
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		out := r.Clone(r.Context())
		pass.Rewrite(&httputil.ProxyRequest{In: r, Out: out})
		var d net.Dialer
		c, err := d.DialContext(r.Context(), "tcp", out.URL.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(patienceOfBox))
		var head strings.Builder
		_, _ = fmt.Fprintf(&head, "%s %s HTTP/1.0\r\nHost: %s\r\n", r.Method, r.URL.RequestURI(), r.Host)
		h := r.Header.Clone()
		h.Del("Connection")
		h.Del("Upgrade")
		_ = h.WriteSubset(&head, map[string]bool{"Content-Length": true})
		_, _ = fmt.Fprintf(c, "%sContent-Length: %d\r\n\r\n%s", head.String(), len(body), body)
		resp, err := http.ReadResponse(bufio.NewReader(c), r)
		if err != nil {
			w.WriteHeader(http.StatusGatewayTimeout)
			return
		}
		if body, err = io.ReadAll(resp.Body); err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		resp.Header.Del("Connection")
		for k, v := range resp.Header {
			w.Header()[k] = v
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		w.WriteHeader(resp.StatusCode)
		_, _ = w.Write(body)
	})
}
