package client

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/atls-ws/atls-ws/internal/answer"
	"github.com/atls-ws/atls-ws/internal/est"
	"github.com/atls-ws/atls-ws/internal/session"
)

var (
	// ErrClock says that this device's clock does not fit a certificate.
	ErrClock = errors.New("the clock of this device")
	// ErrNoEnrollment says that the server lets nobody enroll.
	ErrNoEnrollment = errors.New("the server has no enrollment")
	// ErrNoIdentity says that there is nothing to show when enrolling.
	ErrNoIdentity = errors.New("no certificate, factory certificate or token to enroll with")
)

// EnrollError is the server's no to a request for a certificate. 401 is about
// the token, 403 about the device or the names; it asks to come back with 202
// and 503.
type EnrollError struct {
	StatusCode int
	Text       string // its words
	RetryAfter time.Duration
}

func (e *EnrollError) Error() string {
	return fmt.Sprintf("enrollment: the server answered %d: %s", e.StatusCode, e.Text)
}

// EnrollOptions say what a device enrolls as, and where its certificate is.
type EnrollOptions struct {
	// CertFile and KeyFile are PEM; the key is made here, leaves the device never,
	// and has mode 0600. Their folders must be there. Required, and not the same.
	CertFile, KeyFile string
	// Device is the id to ask for; empty: that of the factory certificate, or of
	// the certificate that is there.
	Device string
	// Factory is the certificate that the device was made with (IDevID); its id is
	// the subject's serialNumber.
	Factory *tls.Certificate
	// Token is for one device and one key. It is used when there is no Factory.
	Token string
}

// Enrollment is a device's certificate that it got from the service. All methods
// may be called from any goroutine, but for Renew and Keep: one at a time.
type Enrollment struct {
	cfg     *Config // complete; TLS without a certificate
	o       EnrollOptions
	files   identity
	current atomic.Pointer[tls.Certificate]
}

// Enroll reads the device's certificate, or gets it from the service (RFC 7030)
// when there is none or it has expired: with a key that it makes, inside a
// connection of its own, showing o's factory certificate or token. Of c, the
// certificates of TLS are not used, nor are Mux and the hooks. ctx bounds all of it.
//
//	e, err := client.Enroll(ctx, c, &client.EnrollOptions{CertFile: "d.pem", KeyFile: "d-key.pem", Device: "pump-7", Token: token})
//	...
//	c.TLS.GetClientCertificate = e.GetClientCertificate
//	go e.Keep(ctx) // renews it, while sessions stay up
func Enroll(ctx context.Context, c *Config, o *EnrollOptions) (*Enrollment, error) {
	e, err := newEnrollment(c, o)
	if err != nil {
		return nil, err
	}
	switch have, err := e.files.load(); {
	case err == nil && time.Now().Before(have.Leaf.NotAfter):
		if err := checkClock(have.Leaf, time.Now()); err != nil {
			return nil, fmt.Errorf("enroll: %s: %w", o.CertFile, err)
		}
		e.current.Store(have)
		return e, nil
	case err == nil:
		e.cfg.Logger.Warn("certificate has expired", "file", o.CertFile, "not_after", have.Leaf.NotAfter)
	default:
		e.cfg.Logger.Debug("no certificate yet", "file", o.CertFile, "err", err)
	}
	if err := e.enroll(ctx); err != nil {
		return nil, fmt.Errorf("enroll: %w", err)
	}
	return e, nil
}

func newEnrollment(c *Config, o *EnrollOptions) (*Enrollment, error) {
	if o == nil || o.CertFile == "" || o.KeyFile == "" || o.CertFile == o.KeyFile {
		return nil, errors.New("enroll: CertFile and KeyFile are required, and are two files")
	}
	if c == nil || c.TLS == nil {
		return nil, errors.New("enroll: no configuration")
	}
	cc := *c
	cc.TLS = c.TLS.Clone()
	cc.TLS.Certificates, cc.TLS.ClientSessionCache = nil, nil
	cc.TLS.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return new(tls.Certificate), nil }
	cfg, err := cc.complete()
	if err != nil {
		return nil, err
	}
	return &Enrollment{cfg: cfg, o: *o, files: identity{o.CertFile, o.KeyFile}}, nil
}

// Certificate is the device's current one.
func (e *Enrollment) Certificate() *tls.Certificate { return e.current.Load() }

// GetClientCertificate is for a tls.Config: each handshake has the certificate
// that is current then.
func (e *Enrollment) GetClientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	if c := e.current.Load(); c != nil {
		return c, nil
	}
	return nil, ErrNoIdentity
}

// enroll gets the first certificate.
func (e *Enrollment) enroll(ctx context.Context) error {
	device := e.o.Device
	var show *tls.Certificate
	var user *url.Userinfo
	switch {
	case e.o.Factory != nil:
		leaf := e.o.Factory.Leaf
		if leaf == nil {
			return errors.New("the factory certificate is not parsed")
		}
		if show = e.o.Factory; device == "" {
			device = leaf.Subject.SerialNumber
		}
	case e.o.Token != "":
		user = url.UserPassword(device, e.o.Token)
	default:
		return ErrNoIdentity
	}
	if device == "" {
		return errors.New("no id for the device: neither Device nor a serialNumber in the factory certificate")
	}
	return e.ask(ctx, est.Enroll, device, show, user)
}

// Renew gets another certificate, for another key, by showing the current one,
// or as Enroll does when that has expired. On an error the current one stays.
func (e *Enrollment) Renew(ctx context.Context) error {
	have := e.current.Load()
	if have == nil || time.Now().After(have.Leaf.NotAfter) {
		return e.enroll(ctx)
	}
	device := e.o.Device
	if device == "" {
		device = deviceOf(have.Leaf)
	}
	return e.ask(ctx, est.Reenroll, device, have, nil)
}

// deviceOf is the id in a certificate, as servers look for it.
func deviceOf(c *x509.Certificate) string {
	switch {
	case len(c.URIs) > 0:
		return strings.TrimPrefix(c.URIs[0].String(), est.DeviceURN)
	case len(c.DNSNames) > 0:
		return c.DNSNames[0]
	}
	return cmp.Or(c.Subject.SerialNumber, c.Subject.CommonName)
}

const (
	enrollWithin = time.Minute // for one carrier
	tooLate      = 5 * time.Minute
)

// ask sends a request over a connection of its own and installs what it gets.
func (e *Enrollment) ask(ctx context.Context, operation, device string, show *tls.Certificate, user *url.Userinfo) error {
	key, err := e.files.nextKey()
	if err != nil {
		return err
	}
	csr, err := est.NewCSR(device, key)
	if err != nil {
		return err
	}
	conn, err := e.connect(ctx, show)
	if err != nil {
		return err
	}
	tr := oneConn(conn)
	defer func() { tr.CloseIdleConnections(); _ = conn.Close() }()
	ctx, cancel := context.WithTimeoutCause(ctx, enrollWithin, timeoutError(fmt.Sprintf("no certificate within %s", enrollWithin)))
	defer cancel()
	asker := &est.Asker{Transport: tr, URL: "http://atls" + est.DevicePath, User: user}
	// A small request first: its answer says whether this identity is let in.
	authorities, err := asker.CACerts(ctx)
	if err != nil {
		return enrollError(err)
	}
	chain, date, err := asker.Sign(ctx, operation, csr)
	if err != nil {
		return enrollError(err)
	}
	if skew := time.Since(date); !date.IsZero() && skew.Abs() > tooLate {
		e.cfg.Logger.Warn("this device's clock and the server's differ", "by", skew.Round(time.Second).String())
	}
	if err := checkClock(chain[0], time.Now()); err != nil {
		return err
	}
	if err := verifyIssued(chain, authorities); err != nil {
		return fmt.Errorf("the certificate that the server gave: %w", err)
	}
	have, err := e.files.install(chain)
	if err != nil {
		return err
	}
	e.current.Store(have)
	e.cfg.Logger.Info("certificate enrolled", "device", device, "operation", operation, "not_after", have.Leaf.NotAfter.UTC().Format(time.RFC3339), "file", e.o.CertFile)
	return nil
}

func verifyIssued(chain, authorities []*x509.Certificate) error {
	o := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, c := range authorities {
		o.Roots.AddCert(c)
	}
	for _, c := range chain[1:] {
		o.Intermediates.AddCert(c)
	}
	_, err := chain[0].Verify(o)
	return err
}

// connect makes a connection of atls-http/1, over the carrier that works.
func (e *Enrollment) connect(ctx context.Context, show *tls.Certificate) (net.Conn, error) {
	inner := e.cfg.TLS.Clone()
	if show != nil {
		inner.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return show, nil }
	}
	kinds := []Carrier{e.cfg.Carrier}
	if e.cfg.Carrier == CarrierAuto {
		kinds = []Carrier{CarrierWebSocket, CarrierPOST}
	}
	errs := map[Carrier]error{}
	for _, kind := range kinds {
		d := &dialer{cfg: e.cfg, hop: newHop(e.cfg)}
		d.users.Store(1)
		conn, err := d.dialHTTP(ctx, kind, inner)
		d.release()
		if err == nil {
			return conn, nil
		}
		errs[kind] = err
		if ctx.Err() != nil || conclusive(err) {
			break
		}
	}
	if len(errs) == 2 {
		return nil, &CarriersError{errs[CarrierWebSocket], errs[CarrierPOST]}
	}
	return nil, errs[kinds[0]]
}

func (d *dialer) dialHTTP(ctx context.Context, kind Carrier, inner *tls.Config) (net.Conn, error) {
	conn, _, err := d.open(ctx, kind, nil)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, timeoutError(fmt.Sprintf("no inner handshake within %s", readyTimeout)))
	defer cancel()
	return session.ClientHTTP(ctx, conn, inner)
}

// oneConn sends requests over conn and never over another one.
func oneConn(conn net.Conn) *http.Transport {
	var used atomic.Bool
	return &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			if used.Swap(true) {
				return nil, errors.New("the server has closed the connection")
			}
			return conn, nil
		},
		DisableCompression: true, MaxResponseHeaderBytes: maxHeader,
	}
}

// enrollError says what an answer means.
func enrollError(err error) error {
	var no *est.StatusError
	if !errors.As(err, &no) {
		return fmt.Errorf("asking for a certificate: %w", session.Alert(err))
	}
	var problem struct{ Type, Detail string }
	ours := json.Unmarshal([]byte(no.Text), &problem) == nil && problem.Type == est.NotEnrolled
	if no.StatusCode == http.StatusNotFound && !ours {
		return ErrNoEnrollment
	}
	e := &EnrollError{StatusCode: no.StatusCode, Text: clip(answer.Printable(no.Text)), RetryAfter: no.RetryAfter}
	if ours {
		e.Text = clip(problem.Detail)
	}
	return e
}
