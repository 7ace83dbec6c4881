package device

import (
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/atls-ws/atls-ws/client"
)

// Status is what a device says of itself locally.
type Status struct {
	Connected bool      `json:"connected"`
	Started   time.Time `json:"started"`
	Since     time.Time `json:"since"` // when it became what Connected says
	URL       string    `json:"url"`
	Software  string    `json:"software"`

	Device   string   `json:"device,omitempty"` // as the server took it from the certificate
	Session  string   `json:"session,omitempty"`
	Carrier  string   `json:"carrier,omitempty"`
	Remote   string   `json:"remote,omitempty"`
	Services []string `json:"services"`

	Outer *OuterStatus `json:"outer,omitempty"` // of the latest session; none over plain HTTP

	Sessions  int       `json:"sessions"` // since the start
	Failures  int       `json:"failures"` // tries in a row that gave no session
	LastError string    `json:"last_error,omitempty"`
	Next      string    `json:"next,omitempty"` // what to do about it
	ErrorAt   time.Time `json:"error_at,omitzero"`
	RetryAt   time.Time `json:"retry_at,omitzero"`

	CertificateEnd time.Time `json:"certificate_end,omitzero"`
	ClockNotSet    bool      `json:"clock_not_set,omitempty"`

	StateError string    `json:"state_error,omitempty"` // why the state directory is not written to
	StateSince time.Time `json:"state_since,omitzero"`  // since when
}

// OuterStatus is what the device met on the way.
type OuterStatus struct {
	TLS         string `json:"tls"`
	Policy      string `json:"policy"`
	Verified    bool   `json:"verified"`
	VerifyError string `json:"verify_error,omitempty"`
	Issuer      string `json:"issuer,omitempty"`
	// Intercepted is what the server found by comparison, if it could compare.
	Intercepted *bool `json:"intercepted,omitempty"`
}

// status keeps the Status. The zero value is not used.
type status struct {
	log     *slog.Logger
	explain func(error) (reason, next string)
	clock   *clock
	keeper  *keeper

	mu  sync.Mutex
	now Status

	listener net.Listener
	wg       sync.WaitGroup
}

func newStatus(o Options, url string, k *keeper, c *clock) *status {
	s := &status{log: o.Logger, explain: o.Explain, clock: c, keeper: k}
	if s.explain == nil {
		s.explain = func(err error) (string, string) { return err.Error(), "" }
	}
	now := time.Now().UTC()
	s.now = Status{Started: now, Since: now, URL: url, Software: o.Software}
	return s
}

func (s *status) connected(sess *client.Session) {
	s.keeper.saveTime(sess.Ready().Time)
	s.mu.Lock()
	defer s.mu.Unlock()
	n := &s.now
	n.Connected, n.Since, n.Device, n.Session = true, sess.Opened().UTC(), sess.Device(), sess.ID()
	n.Carrier, n.Remote = sess.Hello().Carrier, sess.RemoteAddr().String()
	n.Sessions++
	n.Failures, n.RetryAt = 0, time.Time{}
	n.Outer = nil
	if o := sess.Hello().Outer; o != nil {
		n.Outer = &OuterStatus{TLS: o.TLSVersion, Policy: o.Policy, Verified: o.Verified, VerifyError: o.VerifyError, Intercepted: sess.Ready().Intercepted}
		if len(o.Chain) > 0 {
			n.Outer.Issuer = o.Chain[0].Issuer
		}
	}
}

func (s *status) disconnected(err error, retry time.Duration) {
	reason, next := s.explain(err)
	s.mu.Lock()
	defer s.mu.Unlock()
	n, now := &s.now, time.Now().UTC()
	if n.Connected {
		n.Connected, n.Since = false, now
		n.Session, n.Carrier, n.Remote = "", "", ""
	}
	n.Failures++
	n.LastError, n.Next, n.ErrorAt, n.RetryAt = reason, next, now, now.Add(retry)
}

func (s *status) set(fn func(*Status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn(&s.now)
}

func (s *status) get() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.now
	n.ClockNotSet = s.clock != nil && s.clock.behind()
	if since, err := s.keeper.trouble(); err != nil {
		n.StateError, n.StateSince = err.Error(), since
	}
	return n
}
