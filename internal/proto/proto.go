// Package proto turns the values that two ends of a session exchange into
// bytes and back: the greeting (Hello, Ready), the header of a service stream
// and the frames of the signal stream. It starts no goroutine and does no I/O
// of its own beyond the reader or writer it is handed. docs/PROTOCOL.md is the
// normative text; the golden vectors in testdata pin it.
package proto

import (
	"errors"
	"fmt"
)

// Inner ALPN names. Neither h2 nor http/1.1 is ever offered inside: a box could
// splice such a session to an ordinary HTTPS server.
const (
	ALPNMux  = "atls-mux/1"  // yamux; the device is the yamux client
	ALPNHTTP = "atls-http/1" // one HTTP/1.1 connection to the server's Handler
)

// ServiceSignals is the reserved service that carries signals.
const ServiceSignals = "signals"

// Limits of the wire, in bytes.
const (
	MaxGreeting = 16 << 10 // Hello, Ready or a refusal, as JSON
	MaxName     = 255      // a service's or a signal's name
	MaxText     = 4 << 10  // the text of an answer or an ack
	MaxData     = 64 << 10 // a signal's data
	MaxFrame    = MaxData + 1<<10
)

// Version is the version byte of a service stream's header and of Hello.
const Version = 1

// Code is the verdict in an answer, an ack or a refusal. 0 is success.
type Code uint8

// The codes; unknown ones are refusals too.
const (
	OK         Code = 0
	Refused    Code = 1 // the other end's handler said no
	NotFound   Code = 2 // nobody listens to that name
	NotAllowed Code = 3 // authorization said no
	Busy       Code = 4 // a limit was reached; try later
	Expired    Code = 5 // the signal came after its expiry
	Malformed  Code = 6 // the bytes made no sense
	Replaced   Code = 7 // a newer session of the same device took over
	Closing    Code = 8 // the end is shutting down
)

var codeNames = [...]string{"ok", "refused", "not found", "not allowed", "busy", "expired", "malformed", "replaced", "closing"}

func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return fmt.Sprintf("code %d", uint8(c))
}

// ErrTooLarge says that a length on the wire is over its limit.
var ErrTooLarge = errors.New("proto: length over its limit")

// ErrMalformed says that bytes do not have the form the protocol gives them.
var ErrMalformed = errors.New("proto: malformed")

// CheckName says whether name can name a service or a signal: 1 to 255 bytes
// of printable ASCII without space.
func CheckName(name string) error {
	if len(name) == 0 || len(name) > MaxName {
		return fmt.Errorf("name of %d bytes, want 1 to %d", len(name), MaxName)
	}
	for i := range len(name) {
		if name[i] <= ' ' || name[i] > '~' {
			return fmt.Errorf("name %q: byte %d is not printable ASCII", name, i)
		}
	}
	return nil
}

// clip shortens s to at most n bytes.
func clip(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}
