package daemon

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/atls-ws/atls-ws/internal/answer"
	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/est"
	"github.com/atls-ws/atls-ws/internal/pki"
	"github.com/atls-ws/atls-ws/server"
)

// enrollment is what the configuration says of it; nil: devices do not enroll.
// inner has the server's own certificate.
func enrollment(cfg *config.Server, inner *tls.Config, log *slog.Logger) (*server.Enrollment, error) {
	if !cfg.Enrolls() {
		return nil, nil
	}
	factory, err := cfg.FactoryCAs()
	if err != nil {
		return nil, err
	}
	e := &server.Enrollment{Factory: factory}
	if e.CA, err = authority(&cfg.Enroll); err != nil {
		return nil, err
	}
	if cfg.Enroll.Tokens != "" {
		data := cfg.Data
		if data == "" {
			data = config.DefaultData()
		}
		t := &tokens{file: cfg.Enroll.Tokens, used: filepath.Join(data, "enroll-tokens"), log: log}
		e.Token = t.use
	}
	patterns := cfg.Enroll.Devices
	e.Allow = func(_ context.Context, r *server.EnrollRequest) error {
		switch {
		case isReserved(r.Device, inner):
			return fmt.Errorf("the name %q is one of the service's own, not a device's", answer.Printable(r.Device))
		case len(patterns) > 0 && !slices.ContainsFunc(patterns, func(p string) bool { return config.Match(p, r.Device) }):
			return fmt.Errorf("the server's rules give the device %q no certificate", answer.Printable(r.Device))
		}
		return nil
	}
	return e, nil
}

// isReserved says whether a certificate in this name could pass for the server's or
// a node's. An authority elsewhere may put into it whatever the request has, names
// and uses, and it may be the one that vouches for servers and nodes too.
func isReserved(device string, inner *tls.Config) bool {
	names := []string{pki.ServerName, pki.NodeServerName}
	for _, c := range inner.Certificates {
		names = append(names, c.Leaf.DNSNames...)
	}
	return strings.HasPrefix(strings.ToLower(device), pki.NodeURN) ||
		slices.ContainsFunc(names, func(name string) bool { return strings.EqualFold(name, device) })
}

func authority(e *config.Enroll) (server.Authority, error) {
	if e.Upstream == "" {
		ca, err := e.CA()
		if err != nil {
			return nil, err
		}
		lifetime := e.Lifetime
		if lifetime == 0 {
			lifetime = config.DefaultLifetime
		}
		return &ownCA{ca, lifetime}, nil
	}
	t, err := e.UpstreamTLS()
	if err != nil {
		return nil, err
	}
	return &upstreamCA{est.Asker{
		URL:       strings.TrimSuffix(e.Upstream, "/") + "/",
		Transport: &http.Transport{TLSClientConfig: t, Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: 10 * time.Second, DisableKeepAlives: true},
	}}, nil
}

// ownCA signs with a key that the server has.
type ownCA struct {
	ca       *pki.CA
	lifetime time.Duration
}

// CACerts implements server.Authority.
func (a *ownCA) CACerts(context.Context) ([]*x509.Certificate, error) {
	return []*x509.Certificate{a.ca.Certificate()}, nil
}

// Issue implements server.Authority.
func (a *ownCA) Issue(_ context.Context, r *server.EnrollRequest) ([]*x509.Certificate, error) {
	c, err := a.ca.Sign(r.Device, r.CSR.PublicKey, a.lifetime)
	if err != nil {
		return nil, err
	}
	return []*x509.Certificate{c}, nil
}

// upstreamCA lets an EST server sign, which knows this server and trusts what it
// has found out about the device. It sees a first request each time: to renew,
// EST wants the old certificate's key, which the device has.
type upstreamCA struct{ asker est.Asker }

// CACerts implements server.Authority.
func (a *upstreamCA) CACerts(ctx context.Context) ([]*x509.Certificate, error) {
	certs, err := a.asker.CACerts(ctx)
	if err != nil {
		return nil, fmt.Errorf("%scacerts: %w", a.asker.URL, err)
	}
	return certs, nil
}

// Issue implements server.Authority.
func (a *upstreamCA) Issue(ctx context.Context, r *server.EnrollRequest) ([]*x509.Certificate, error) {
	certs, _, err := a.asker.Sign(ctx, est.Enroll, r.CSR.Raw)
	if err != nil {
		return nil, fmt.Errorf("%ssimpleenroll: %w", a.asker.URL, err)
	}
	return certs, nil
}

// tokens are those of a file. A used one has a file of its own in the folder used,
// by its sum, that names the key which it was used for; what makes that file first
// has used the token, also where several servers share the folder.
type tokens struct {
	file, used string
	log        *slog.Logger
}

var errToken = errors.New("the token is not for this device, has ended, or was used")

// use is server.Enrollment's Token.
func (t *tokens) use(_ context.Context, device, token string, spki [32]byte) error {
	all, err := config.ReadTokens(t.file)
	if err != nil { // what is right in it counts
		t.log.Warn("tokens file", "file", t.file, "err", err)
	}
	sum := sha256.Sum256([]byte(token))
	found := false
	for _, one := range all {
		if subtle.ConstantTimeCompare(one.Sum[:], sum[:]) == 1 && one.Device == device && time.Now().Before(one.Expires) {
			found = true
		}
	}
	if !found {
		return errToken
	}
	by, err := t.claim(hex.EncodeToString(sum[:]), hex.EncodeToString(spki[:]))
	switch {
	case err != nil:
		t.log.Error("tokens cannot be used up, and so not used", "folder", t.used, "err", err)
		return errors.New("the server cannot take tokens now; its log says why")
	case by != hex.EncodeToString(spki[:]):
		return errToken
	}
	return nil
}

// claim says which key the token with this sum is for: this one, unless there was
// another before.
func (t *tokens) claim(sum, spki string) (by string, err error) {
	if err := os.MkdirAll(t.used, 0o700); err != nil {
		return "", err
	}
	f, err := os.CreateTemp(t.used, ".new-*")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.WriteString(spki)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", err
	}
	path := filepath.Join(t.used, sum)
	switch err := os.Link(f.Name(), path); { // all of it at once, or not
	case err == nil:
		return spki, nil
	case !errors.Is(err, fs.ErrExist):
		return "", err
	}
	data, err := os.ReadFile(path)
	return string(data), err
}
