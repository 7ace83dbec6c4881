// Package admin is the client of a daemon's admin API, HTTP/1.1 over a unix
// socket or over the daemon's console, and the values that travel over it:
//
//	GET  /v1/devices                                    200 [Device]: those that are connected
//	GET  /v1/devices/{id}                               200 DeviceDetail, connected or not
//	POST /v1/devices/{id}/disconnect                    200 Disconnected
//	GET  /v1/devices/{id}/signals                       200 [QueuedSignal]
//	POST /v1/devices/{id}/signals?name=N                Outcome: 200 acked, 202 queued or delivered, 409 refused,
//	                                                    410 expired, dropped or canceled, 507 queue full
//	POST /v1/signals?name=N&group=G (or all=true)       200, a Progress a line, the last with the Summary
//	GET  /v1/signals?limit=50                           200 [Signal], newest first, without outcomes
//	GET  /v1/signals/{id}                               200 Signal
//	DELETE /v1/signals/{id}?device=D                    200 [Outcome]: cancels what still waits
//	GET  /v1/groups, /v1/groups/{group}                 200 [Group], GroupDetail
//	GET  /v1/deny                                       200 [Denial]
//	PUT, DELETE /v1/deny/{id}                           200 Denial
//	GET  /v1/events?device=D&type=T                     200, server-sent events: Event
//	POST /v1/events                                     a CloudEvent, answered as the POSTs for signals
//	POST /v1/devices/{id}/services/{service}?wait=30s   101, then Frames, or raw bytes with half-close
//	GET  /v1/streams/{stream}                           200 Outcome of what the 101 named
//
// docs/openapi.yaml says all of it.
//
// The POSTs for signals take the data as body, its type as Content-Type, and:
// id=32 hex digits, of which a device handles one signal however often it is
// sent (fresh=true: it was made for this request); ttl=1h; wait=false answers
// when the signal is on the disk; timeout=30s bounds the wait.
// Errors are an Outcome: 400 failed, 404 unknown, 503 unavailable.
package admin

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/atls-ws/atls-ws/internal/session"
)

// MaxData is the limit of a signal's data, in bytes.
const MaxData = 64 << 10

// What a request for a service upgrades to.
const (
	Protocol       = "atls-stream" // raw bytes, for simple clients
	FramesProtocol = "atls-frames" // see Frames
)

// Headers of the answer 101.
const (
	StreamHeader    = "Atls-Stream"    // of the stream, for GET /v1/streams/{stream}
	KeepaliveHeader = "Atls-Keepalive" // of FramesProtocol, a duration
)

// DefaultTimeout bounds a push that sets no timeout; MaxTimeout bounds all.
const (
	DefaultTimeout = 30 * time.Second
	MaxTimeout     = time.Hour
)

// Device is a device that is connected.
type Device struct {
	Device   string               `json:"device"`
	Node     string               `json:"node,omitempty"` // of a cluster, at which it is connected
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

// Unauthenticated is the code of a refusal for an operator who has not said who
// it is.
const Unauthenticated = "unauthenticated"

// The states of an Outcome.
const (
	Queued       = "queued"        // on the disk, for a device that has not got it
	Delivered    = "delivered"     // the device has it and has not answered
	Acked        = "acked"         // the device's handler has handled the signal
	Refused      = "refused"       // the device said no
	Expired      = "expired"       // it was not handled in time
	Dropped      = "dropped"       // it made room for a newer one
	Canceled     = "canceled"      // an operator took it back
	NotConnected = "not connected" // nothing was sent
	Unknown      = "unknown"       // no such signal
	Unavailable  = "unavailable"   // the server cannot do it now; Text and Next say why
	Timeout      = "timeout"       // the server does not answer
	Failed       = "failed"        // Text says how
	Ended        = "ended"         // of a stream: in an orderly way
)

// OfflineText is the text of a queued signal whose device is not connected.
const OfflineText = "the device is offline; it gets the signal when it connects"

// Outcome is what became of a signal, at one device, or of a stream.
type Outcome struct {
	Signal string    `json:"signal,omitempty"` // id, 32 hex digits
	Device string    `json:"device,omitempty"`
	State  string    `json:"state"`
	Code   string    `json:"code,omitempty"` // of a refusal
	Text   string    `json:"text,omitempty"` // the device's, or the error's
	Next   string    `json:"next,omitempty"` // what to do about an error
	Time   time.Time `json:"time,omitzero"`
}

// Final says whether the outcome will not change any more.
func (o *Outcome) Final() bool { return o.State != Queued && o.State != Delivered }

// Signal is a signal that was sent, and what is known of it.
type Signal struct {
	ID          string         `json:"id"`
	Name        string         `json:"name"`
	ContentType string         `json:"content_type,omitempty"`
	Bytes       int            `json:"bytes"`
	Target      string         `json:"target"` // device ID, group NAME or all
	Created     time.Time      `json:"created"`
	Expires     time.Time      `json:"expires"`
	Complete    bool           `json:"complete"` // every device of the target has been reached
	Parts       int            `json:"-"`
	Devices     int            `json:"devices,omitempty"`
	Counts      map[string]int `json:"counts,omitempty"` // devices by state
	Outcomes    []Outcome      `json:"outcomes,omitempty"`
}

// QueuedSignal is a signal in the queue of a device.
type QueuedSignal struct {
	ID          string    `json:"id"`
	Name        string    `json:"name"`
	ContentType string    `json:"content_type,omitempty"`
	Bytes       int       `json:"bytes"`
	Created     time.Time `json:"created"`
	Expires     time.Time `json:"expires"`
	State       string    `json:"state"` // queued, or delivered and not answered
}

// Progress is a line of the answer to a fan-out: the outcome of a device has
// changed, or it is over.
type Progress struct {
	Outcome *Outcome `json:"outcome,omitempty"`
	Summary *Summary `json:"summary,omitempty"`
}

// Summary is the end of a fan-out.
type Summary struct {
	ID      string         `json:"id"`
	Devices int            `json:"devices"`
	Counts  map[string]int `json:"counts"` // devices by state
	Error   string         `json:"error,omitempty"`
	Next    string         `json:"next,omitempty"`
}

// NewID makes the id of a signal.
func NewID() (id [16]byte) {
	_, _ = rand.Read(id[:]) // never fails
	return id
}

// OutcomeError is an Outcome that is a failure.
type OutcomeError struct{ Outcome }

// Error gives the state and what is known beyond it.
func (e *OutcomeError) Error() string { return e.String() }

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
	if strings.HasPrefix(e.Path, "https://") {
		return fmt.Sprintf("no server answers at %s: %v", e.Path, err)
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
