// Package admin is the client of a daemon's admin API, HTTP/1.1 over a unix
// socket, and the values that travel over it:
//
//	GET  /v1/devices                                    200 [Device]
//	POST /v1/devices/{id}/signals?name=N&timeout=30s    200, 409, 404, 504 Outcome
//	POST /v1/devices/{id}/services/{service}            101, then raw bytes with half-close
//	GET  /v1/streams/{stream}                           200 Outcome of what the 101 named
package admin

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/atls-ws/atls-ws/internal/session"
)

// MaxData is the limit of a signal's data, in bytes.
const MaxData = 64 << 10

// Protocol is what a request for a service upgrades to.
const Protocol = "atls-stream"

// StreamHeader names, in the answer 101, the stream for GET /v1/streams/{stream}.
const StreamHeader = "Atls-Stream"

// DefaultTimeout bounds a push that sets no timeout; MaxTimeout bounds all.
const (
	DefaultTimeout = 30 * time.Second
	MaxTimeout     = time.Hour
)

// Device is a device that is connected.
type Device struct {
	Device   string               `json:"device"`
	Session  string               `json:"session"`
	Since    time.Time            `json:"since"`
	Address  string               `json:"address"` // of whoever connected, perhaps a middlebox
	Carrier  string               `json:"carrier"`
	Software string               `json:"software"`
	Services []string             `json:"services"`        // that can be dialed
	Outer    *session.OuterReport `json:"outer,omitempty"` // what the device met; none over plain HTTP
	Counts   OuterCounts          `json:"outer_counts"`
}

// OuterCounts say how often a device met what, since the server started.
type OuterCounts struct {
	Sessions    int `json:"sessions"`
	Intercepted int `json:"intercepted"` // the outer TLS did not end here
	Unverified  int `json:"unverified"`  // the outer chain did not validate
}

// The states of an Outcome.
const (
	Acked        = "acked"         // the device's handler has handled the signal
	Refused      = "refused"       // the device said no
	NotConnected = "not connected" // nothing was sent
	Timeout      = "timeout"       // the device may still handle the signal
	Failed       = "failed"        // Text says how
	Ended        = "ended"         // of a stream: in an orderly way
)

// Outcome is what became of a signal or of a stream.
type Outcome struct {
	State string `json:"state"`
	Code  string `json:"code,omitempty"` // of a refusal
	Text  string `json:"text,omitempty"` // the device's, or the error's
}

// OutcomeError is an Outcome that is a failure.
type OutcomeError struct{ Outcome }

// Error gives the state and what is known beyond it.
func (e *OutcomeError) Error() string {
	s := e.State
	if e.Code != "" && e.Code != e.State {
		s += " (" + e.Code + ")"
	}
	if e.Text != "" {
		s += ": " + e.Text
	}
	return s
}

// UnreachableError says that no daemon answers on the admin socket.
type UnreachableError struct {
	Path string
	Err  error
}

// Error names the socket.
func (e *UnreachableError) Error() string {
	err := e.Err
	for errors.Unwrap(err) != nil {
		err = errors.Unwrap(err) // the innermost: the path and the call are said
	}
	return fmt.Sprintf("no server answers on the admin socket %s: %v", e.Path, err)
}

// Unwrap returns Err.
func (e *UnreachableError) Unwrap() error { return e.Err }

// DefaultPath is where a daemon has its admin socket when nothing says where: a
// folder that only the user can enter.
func DefaultPath() string {
	const name = "admin.sock"
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "atls-ws", name)
	}
	if os.Getuid() == 0 {
		return filepath.Join("/run/atls-ws", name)
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("atls-ws-%d", os.Getuid()), name)
}
