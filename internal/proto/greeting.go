package proto

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// Hello is what the client says first on the inner TLS connection.
type Hello struct {
	Version  int      `json:"version"`
	Software string   `json:"software,omitempty"`
	Carrier  string   `json:"carrier,omitempty"`  // websocket or post
	Services []string `json:"services,omitempty"` // the services it listens on
	// Attempt is the same in sessions that are alternatives of each other: the
	// device chooses one and ends the rest, so none replaces another.
	Attempt string `json:"attempt,omitempty"`
	// Applied is the last signal of the server's queue that the device handled.
	Applied *Position `json:"applied,omitempty"`
	// Probe asks for Ready, and at most a request to the server's services: the
	// session replaces none of the device and ends soon.
	Probe bool         `json:"probe,omitempty"`
	Outer *OuterReport `json:"outer,omitempty"`
}

// Position is a place in a queue of signals. Sequences of different queues do
// not compare.
type Position struct {
	Queue string `json:"queue"`
	Seq   uint64 `json:"seq"`
}

// OuterReport tells the server what the device met on the outer hop.
type OuterReport struct {
	TLSVersion  string      `json:"tls_version,omitempty"`
	Verified    bool        `json:"verified"` // the chain validates for the host under the device's roots
	VerifyError string      `json:"verify_error,omitempty"`
	Policy      string      `json:"policy,omitempty"` // report, verify or pin: what the device asked of the chain
	Chain       []OuterCert `json:"chain,omitempty"`  // as presented, leaf first
	// Exporter is the outer tls-exporter value (RFC 9266); nil over plain HTTP.
	Exporter []byte `json:"exporter,omitempty"`
	// Intercepted is the server's own verdict: it terminated an outer TLS
	// connection whose exporter differs. It is never taken from the wire.
	Intercepted bool `json:"intercepted"`
	// Compared says that there were two exporters to compare. Never from the wire.
	Compared bool `json:"compared"`
}

// WithoutDER is a copy of the report that only describes the chain.
func (r *OuterReport) WithoutDER() *OuterReport {
	c := *r
	c.Chain = slices.Clone(r.Chain)
	for i := range c.Chain {
		c.Chain[i].DER = nil
	}
	return &c
}

// OuterCert is one certificate of the outer chain.
type OuterCert struct {
	Subject  string    `json:"subject"`
	Issuer   string    `json:"issuer"`
	SHA256   string    `json:"sha256"` // of the DER, lower-case hex
	NotAfter time.Time `json:"not_after"`
	// DER is the certificate itself, when the chain did not verify or the device
	// asks for anchors: the server chooses them by it.
	DER []byte `json:"der,omitempty"`
}

// Ready is the server's acceptance: only after it does the session exist.
type Ready struct {
	Session   string        `json:"session"`      // session id, for logs on both ends
	Device    string        `json:"device"`       // the id the server took from the certificate
	Keepalive time.Duration `json:"keepalive_ns"` // how often each end pings
	Streams   int           `json:"streams"`      // how many the server lets the device have open
	Time      time.Time     `json:"time"`         // the server's clock
	// Queue names the queue that the session's signals with a sequence come from.
	Queue string `json:"queue,omitempty"`
	// Intercepted is what the server says of the outer TLS: whether it ended
	// elsewhere. Absent where the server cannot tell.
	Intercepted *bool `json:"intercepted,omitempty"`
}

// Refusal is the server's no.
type Refusal struct {
	Code       Code          `json:"code"`
	Text       string        `json:"text"`
	RetryAfter time.Duration `json:"retry_after_ns,omitempty"`
}

// Greeting is the server's answer to Hello: exactly one field is set.
type Greeting struct {
	Ready   *Ready   `json:"ready,omitempty"`
	Refused *Refusal `json:"refused,omitempty"`
}

// WriteJSON writes v as u32 length | JSON, in one Write.
func WriteJSON(w io.Writer, v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // would make six bytes of one
	if err := enc.Encode(v); err != nil {
		return err
	}
	body := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	if len(body) > MaxGreeting {
		return fmt.Errorf("%w: greeting of %d bytes, at most %d", ErrTooLarge, len(body), MaxGreeting)
	}
	buf := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body)))
	_, err := w.Write(append(buf, body...))
	return err
}

// ReadJSON reads what WriteJSON wrote into v and no byte more.
func ReadJSON(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > MaxGreeting {
		return fmt.Errorf("%w: greeting of %d bytes, at most %d", ErrTooLarge, n, MaxGreeting)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return noEOF(err)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("%w: greeting: %w", ErrMalformed, err)
	}
	return nil
}

// noEOF turns an end inside a value into io.ErrUnexpectedEOF.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
