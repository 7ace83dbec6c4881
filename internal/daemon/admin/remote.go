package admin

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
)

// Remote says how an operator elsewhere reaches a daemon's console, and who the
// operator is: by a token, a certificate, or both.
type Remote struct {
	Token     string // secret
	Cert, Key string // PEM files of the operator's certificate
	CA        string // PEM file of the authorities that vouch for the console; empty: the system's

	url  string
	node *node
}

// NewRemote makes a client for the console at url, https://DOMAIN. It does no
// I/O: files that cannot be used are errors of the calls.
func NewRemote(url string, r Remote) *Client {
	r.url = url
	return &Client{path: url, remote: &r}
}

// sign addresses a request, and says whose it is.
func (c *Client) sign(req *http.Request) {
	if c.remote == nil {
		return
	}
	if u, err := url.Parse(c.remote.url); err == nil {
		req.Host = u.Host
	}
	if c.remote.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.remote.Token)
	}
}

func (r *Remote) connect(ctx context.Context) (net.Conn, error) {
	if r.node != nil {
		return r.node.connect(ctx)
	}
	u, err := url.Parse(r.url)
	if err != nil || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return nil, errors.New("want https://DOMAIN or https://DOMAIN:PORT")
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: u.Hostname(), NextProtos: []string{"http/1.1"}}
	if r.CA != "" {
		pem, err := os.ReadFile(r.CA)
		if err != nil {
			return nil, err
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate", r.CA)
		}
	}
	if r.Cert != "" || r.Key != "" {
		pair, err := tls.LoadX509KeyPair(r.Cert, r.Key)
		if err != nil {
			return nil, err
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	return (&tls.Dialer{Config: conf}).DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
}
