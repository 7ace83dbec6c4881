package device

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/atls-ws/atls-ws/client"
)

// statusSocket is in the state directory. Whoever connects to it is told the
// Status and hung up on.
const statusSocket = "status.sock"

const (
	statusTimeout  = 5 * time.Second
	maxStatus      = 64 << 10
	maxSocketPath  = 103 // of a unix socket, on every system
	statusHandlers = 8
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
	state   string

	mu  sync.Mutex
	now Status

	listener net.Listener
	wg       sync.WaitGroup
}

func newStatus(o Options, url, state string, c *clock) *status {
	s := &status{log: o.Logger, explain: o.Explain, clock: c, state: state}
	if s.explain == nil {
		s.explain = func(err error) (string, string) { return err.Error(), "" }
	}
	now := time.Now().UTC()
	s.now = Status{Started: now, Since: now, URL: url, Software: o.Software}
	return s
}

func (s *status) connected(sess *client.Session) {
	if err := noteTime(s.state, sess.Ready().Time); err != nil {
		s.log.Debug("the server's time is not kept", "err", err)
	}
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
	return n
}

// listen tells the status at the socket, until close. A device runs without
// that too.
func (s *status) listen(ctx context.Context) {
	if s.state == "" {
		return
	}
	path := filepath.Join(s.state, statusSocket)
	l, err := listenStatus(ctx, path)
	if err != nil {
		s.log.Warn("there is no local status", "err", err, "next", "let this user write to the directory, and give it a path of at most 80 characters")
		return
	}
	s.listener = l
	slots := make(chan struct{}, statusHandlers)
	s.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			slots <- struct{}{}
			s.wg.Go(func() {
				defer func() { <-slots }()
				_ = c.SetDeadline(time.Now().Add(statusTimeout))
				_ = json.NewEncoder(c).Encode(s.get())
				_ = c.Close()
			})
		}
	})
}

// listenStatus replaces the socket that a dead process left.
func listenStatus(ctx context.Context, path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("%s: too long for a unix socket", path)
	}
	if c, err := new(net.Dialer).DialContext(ctx, "unix", path); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("another device answers on %s", path)
	} else if errors.Is(err, syscall.ECONNREFUSED) {
		_ = os.Remove(path)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	return l, os.Chmod(path, 0o600)
}

func (s *status) close() {
	if s.listener != nil {
		_ = s.listener.Close()
	}
	s.wg.Wait()
}

// ErrNotRunning says that no device runs with a state directory.
var ErrNotRunning = errors.New("no device runs here")

// ReadStatus asks the device that runs with the state directory dir.
func ReadStatus(ctx context.Context, dir string) (*Status, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	path := filepath.Join(dir, statusSocket)
	c, err := new(net.Dialer).DialContext(ctx, "unix", path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w: nothing answers on %s", ErrNotRunning, path)
	case err != nil:
		return nil, err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(statusTimeout))
	data, err := io.ReadAll(io.LimitReader(c, maxStatus))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var s Status
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &s, nil
}
