// Package doctor walks a device's way to its server as a person would, step by
// step, and says in plain words what sits in the way.
package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/atls-ws/atls-ws/internal/outer"
)

// Options say what to look at.
type Options struct {
	// URL of the server's carriers, https or http. Required.
	URL *url.URL
	// Proxy picks the proxy; nil is the environment's.
	Proxy func(*http.Request) (*url.URL, error)
	// Roots vouch for the outer certificate; nil is the system's.
	Roots *x509.CertPool
	// Inner is the end-to-end TLS. Without certificate the way is walked up to the
	// inner handshake; without RootCAs the server is looked at and not verified.
	Inner *tls.Config
	// Hold is for how long a POST is held open; 0 leaves that step out.
	Hold time.Duration
	// Software names the program to the server.
	Software string
	// OnStep is called after each step, one at a time; it may be nil.
	OnStep func(Step)
}

// The verdicts of a step.
const (
	OK      = "ok"
	Warn    = "warn" // it works, with a restriction
	Failed  = "failed"
	Skipped = "skipped" // an earlier step makes it pointless
)

// Step is one step of the way.
type Step struct {
	Name    string  `json:"name"`
	Verdict string  `json:"verdict"`
	Millis  float64 `json:"ms"`
	Text    string  `json:"text"`
}

// Report is what was found.
type Report struct {
	URL     string   `json:"url"`
	Steps   []Step   `json:"steps"`
	Found   []string `json:"found"`             // what sits in the way, a sentence each
	Carrier string   `json:"carrier,omitempty"` // the carrier that will work, websocket before post
	Tell    []string `json:"tell"`              // what to tell the administrator of the network
	OK      bool     `json:"session_possible"`
}

// doctor is one walk.
type doctor struct {
	o    Options
	hop  *outer.Hop
	seen seen

	mu     sync.Mutex
	report Report
}

// seen are the facts that the verdict is made of.
type seen struct {
	mu sync.Mutex

	proxy     *url.URL
	reachable bool
	loginPage bool // the plain GET got a page that is not the service's
	wantsTLS  bool // it got the word of a TLS server that plain http is wrong
	service   bool // the plain GET reached the service
	outer     *tls.ConnectionState
	outerErr  error // why the outer chain does not verify
	ws, post  track
	cut       time.Duration // after which a held POST was cut; 0: it was not
}

// track is how far one carrier got.
type track struct {
	err         error
	opened      bool // the upgrade, or the first answer
	frames      bool // bytes came back through it
	handshake   bool
	ready       bool
	intercepted *bool // by the server's word
	server      *x509.Certificate
}

// Run walks the way. ctx bounds it; each step has bounds of its own, so that it
// ends within a minute and a half.
func Run(ctx context.Context, o Options) *Report {
	d := &doctor{o: o, report: Report{URL: o.URL.String(), Steps: []Step{}, Found: []string{}, Tell: []string{}}}
	d.hop = outer.New(outer.Options{Proxy: o.Proxy, TLS: &tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: o.Roots, CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256},
		InsecureSkipVerify: true, // it is looked at, by look
		VerifyConnection:   d.look,
	}})
	defer d.hop.Close()
	if d.reach(ctx) {
		var tracks sync.WaitGroup
		tracks.Go(func() { d.webSocket(ctx) })
		tracks.Go(func() { d.postTrack(ctx) })
		tracks.Wait()
	}
	d.conclude()
	return &d.report
}

func (d *doctor) look(cs tls.ConnectionState) error {
	err := outer.Verify(cs.PeerCertificates, d.o.URL.Hostname(), d.o.Roots)
	d.seen.mu.Lock()
	defer d.seen.mu.Unlock()
	d.seen.outer, d.seen.outerErr = &cs, err
	return nil
}

// step records a step that began at a time.
func (d *doctor) step(name, verdict string, began time.Time, format string, a ...any) {
	s := Step{Name: name, Verdict: verdict, Text: fmt.Sprintf(format, a...)}
	if !began.IsZero() {
		s.Millis = float64(time.Since(began).Microseconds()) / 1000
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.report.Steps = append(d.report.Steps, s)
	if d.o.OnStep != nil {
		d.o.OnStep(s)
	}
}

// failed records a step that failed, and says so.
func (d *doctor) failed(name string, began time.Time, err error) bool {
	if err != nil {
		d.step(name, Failed, began, "%v", err)
	}
	return err != nil
}
