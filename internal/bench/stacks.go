//go:build unix

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"time"

	"github.com/coder/websocket"
	"github.com/hashicorp/yamux"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/pki"
	"github.com/atls-ws/atls-ws/server"
)

// A pair is one byte pipe between a device and the cloud.
type pair struct{ device, cloud net.Conn }

// A link is one connection of a stack: pipes can be opened in it.
type link struct {
	open   func() (pair, error)
	signal func(ctx context.Context, data []byte) error // nil: the stack has none
	close  func()
}

// A stack is a way to connect a device with the cloud. via leads to the cloud's
// address, for a slower path than loopback; nil is straight.
type stack struct {
	name string
	make func(k *keys, via func(addr string) (string, error)) (*link, error)
}

const (
	rawTCP = "raw TCP"
	double = "double TLS"
	naive  = "naive"
	ours   = "atls-ws"
)

func stacks() []stack {
	return []stack{{rawTCP, makeRaw}, {double, makeDouble}, {naive, makeNaive}, {ours, makeOurs}}
}

// keys are the certificates of both layers.
type keys struct {
	ca     *pki.CA
	outer  tls.Certificate
	server tls.Certificate
	device tls.Certificate
	roots  *x509.CertPool
}

func newKeys() (*keys, error) {
	ca, err := pki.NewCA("bench CA")
	if err != nil {
		return nil, err
	}
	k := &keys{ca: ca, roots: ca.Pool()}
	for _, c := range []struct {
		to   *tls.Certificate
		make func() (*pki.Pair, error)
	}{
		{&k.outer, func() (*pki.Pair, error) { return ca.Server([]string{"localhost", "127.0.0.1"}, 0) }},
		{&k.server, func() (*pki.Pair, error) { return ca.Server([]string{pki.ServerName}, 0) }},
		{&k.device, func() (*pki.Pair, error) { return ca.Device("device-1", 0) }},
	} {
		p, err := c.make()
		if err != nil {
			return nil, err
		}
		if *c.to, err = p.TLS(); err != nil {
			return nil, err
		}
	}
	return k, nil
}

func (k *keys) outerServer() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{k.outer}, NextProtos: []string{"http/1.1"}}
}

func (k *keys) outerClient() *tls.Config {
	return &tls.Config{RootCAs: k.roots, ServerName: "localhost", NextProtos: []string{"http/1.1"}}
}

func (k *keys) innerServer() *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{k.server}, ClientCAs: k.roots,
		ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
	}
}

func (k *keys) innerClient() *tls.Config {
	return &tls.Config{RootCAs: k.roots, ServerName: pki.ServerName, Certificates: []tls.Certificate{k.device}, MinVersion: tls.VersionTLS13}
}

// tcp makes a loopback connection, the accepted end first.
func tcp(via func(string) (string, error)) (accepted, dialed net.Conn, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = l.Close() }()
	addr := l.Addr().String()
	if via != nil {
		if addr, err = via(addr); err != nil {
			return nil, nil, err
		}
	}
	if dialed, err = net.Dial("tcp", addr); err != nil {
		return nil, nil, err
	}
	accepted, err = l.Accept()
	return accepted, dialed, err
}

func makeRaw(_ *keys, via func(string) (string, error)) (*link, error) {
	return &link{open: func() (pair, error) {
		cloud, device, err := tcp(via)
		return pair{device, cloud}, err
	}, close: func() {}}, nil
}

// makeDouble is crypto/tls over crypto/tls, with what costs nothing to set.
func makeDouble(k *keys, via func(string) (string, error)) (*link, error) {
	full := func(c *tls.Config) *tls.Config { c.DynamicRecordSizingDisabled = true; return c }
	return &link{open: func() (pair, error) {
		accepted, dialed, err := tcp(via)
		if err != nil {
			return pair{}, err
		}
		cloud := tls.Server(tls.Server(accepted, full(k.outerServer())), full(k.innerServer()))
		device := tls.Client(tls.Client(dialed, full(k.outerClient())), full(k.innerClient()))
		return pair{device, cloud}, both(cloud.Handshake, device.Handshake)
	}, close: func() {}}, nil
}

func both(a, b func() error) error {
	done := make(chan error, 1)
	go func() { done <- a() }()
	return errors.Join(b(), <-done)
}

// makeNaive is what one writes first: websocket.NetConn, TLS and yamux with
// their defaults (but for the read limit, without which it fails).
func makeNaive(k *keys, via func(string) (string, error)) (*link, error) {
	type end struct {
		mux *yamux.Session
		err error
	}
	ends := make(chan end, 1)
	web := newWeb(k, true, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mux, err := naiveAccept(k, w, r)
		ends <- end{mux, err}
	}))
	addr, err := through(via, web.Listener.Addr().String())
	if err != nil {
		return nil, err
	}
	mux, err := naiveDial(k, "wss://"+addr, k.innerClient())
	if err != nil {
		return nil, err
	}
	e := <-ends
	if e.err != nil {
		return nil, e.err
	}
	return &link{open: func() (pair, error) {
		cloud, err := e.mux.Open()
		if err != nil {
			return pair{}, err
		}
		device, err := mux.Accept()
		return pair{device, cloud}, err
	}, close: func() {
		_ = mux.Close()
		_ = e.mux.Close()
		web.Close()
	}}, nil
}

func naiveAccept(k *keys, w http.ResponseWriter, r *http.Request) (*yamux.Session, error) {
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(-1)
	inner := tls.Server(websocket.NetConn(context.Background(), ws, websocket.MessageBinary), k.innerServer())
	if err := inner.Handshake(); err != nil {
		return nil, err
	}
	return yamux.Server(inner, quietYamux())
}

func naiveDial(k *keys, url string, inner *tls.Config) (*yamux.Session, error) {
	ws, _, err := websocket.Dial(context.Background(), url, &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: &http.Transport{TLSClientConfig: k.outerClient()}},
	})
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(-1)
	tc := tls.Client(websocket.NetConn(context.Background(), ws, websocket.MessageBinary), inner)
	if err := tc.Handshake(); err != nil {
		return nil, err
	}
	return yamux.Client(tc, quietYamux())
}

func quietYamux() *yamux.Config {
	c := yamux.DefaultConfig()
	c.LogOutput = io.Discard
	return c
}

func newWeb(k *keys, secure bool, h http.Handler) *httptest.Server {
	web := httptest.NewUnstartedServer(h)
	web.Config.ErrorLog = log.New(io.Discard, "", 0)
	if os.Getenv("BENCH_HTTP_LOG") != "" {
		web.Config.ErrorLog = nil
	}
	ours, is := h.(interface {
		Listener(net.Listener, *tls.Config) net.Listener
	})
	switch {
	case is && secure:
		outer := k.outerServer()
		outer.NextProtos = []string{"http/1.1"}
		web.Listener = ours.Listener(web.Listener, outer)
		web.Start()
	case secure:
		web.TLS = k.outerServer()
		web.StartTLS()
	default:
		web.Start()
	}
	return web
}

func through(via func(string) (string, error), addr string) (string, error) {
	if via == nil {
		return addr, nil
	}
	return via(addr)
}

// makeOurs uses the public packages, as a program that embeds them does.
func makeOurs(k *keys, via func(string) (string, error)) (*link, error) {
	return oursAfter(k, via, func(*client.Config, string) error { return nil })
}

// makeResumed does so with a device that was there before.
func makeResumed(k *keys, via func(string) (string, error)) (*link, error) {
	return oursAfter(k, via, func(c *client.Config, addr string) error {
		c.TLS.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		before := *c
		before.URL = "https://" + addr
		sess, err := client.Dial(context.Background(), &before)
		if err == nil {
			err = sess.Close()
		}
		return err
	})
}

func oursAfter(k *keys, via func(string) (string, error), first func(c *client.Config, addr string) error) (*link, error) {
	srv, err := server.New(&server.Config{TLS: k.innerServer()})
	if err != nil {
		return nil, err
	}
	web := newWeb(k, true, srv)
	addr, err := through(via, web.Listener.Addr().String())
	if err != nil {
		return nil, err
	}
	mux := new(client.Mux)
	mux.OnSignal("s", func(context.Context, client.Signal) (string, error) { return "", nil })
	l, err := mux.Listen("pipe")
	if err != nil {
		return nil, err
	}
	conf := &client.Config{URL: "https://" + addr, TLS: k.innerClient(), Proxy: noProxy, Mux: mux}
	if err := first(conf, web.Listener.Addr().String()); err != nil {
		return nil, err
	}
	sess, err := client.Dial(context.Background(), conf)
	if err != nil {
		return nil, err
	}
	for { // the device is ready a moment before the server has it in its registry
		if s, ok := srv.Registry().Get("device-1"); ok && s.ID() == sess.ID() {
			break
		}
		time.Sleep(time.Millisecond)
	}
	return &link{open: func() (pair, error) {
		cloud, err := srv.DialDevice(context.Background(), "device-1", "pipe")
		if err != nil {
			return pair{}, err
		}
		device, err := l.Accept()
		return pair{device, cloud}, err
	}, signal: func(ctx context.Context, data []byte) error {
		_, err := srv.Push(ctx, "device-1", server.Signal{Name: "s", Data: data})
		return err
	}, close: func() {
		_ = l.Close()
		_ = sess.Close()
		_ = srv.Close()
		web.Close()
	}}, nil
}

func noProxy(*http.Request) (*url.URL, error) { return nil, nil }

// connected calls fn with a fresh link of the stack.
func (s stack) connected(k *keys, via func(string) (string, error), fn func(*link) error) error {
	l, err := s.make(k, via)
	if err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	defer l.close()
	if err := fn(l); err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	return nil
}
