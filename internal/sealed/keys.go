// Package sealed makes and opens sealed messages: HTTP requests outside a
// session, and their answers, under keys that the exporter of the session's TLS
// gives. docs/PROTOCOL.md has the bytes.
//
// The plain text of a message is an HTTP/1.1 message less its first line: field
// lines, an empty line, the body. The coding is aes128gcm. What else belongs to
// the message, as the method and the path, goes into the key: with another one
// nothing is authentic.
package sealed

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	// LabelPrefix begins the labels that are this protocol's.
	LabelPrefix = "EXPORTER-atls-ws-"
	// Label is that of the keys.
	Label = LabelPrefix + "sealed-http"

	idSize    = 16
	keySize   = 32
	keyIDSize = idSize + 8
)

// ErrMalformed says that a message is none.
var ErrMalformed = errors.New("malformed sealed message")

// ID names the keys of a session. It is no secret.
type ID [idSize]byte

// Keys are those of a session, one for each direction.
type Keys struct {
	ID       ID
	Up, Down [keySize]byte // of requests and of answers
}

// Derive makes the keys of a session by its exporter.
func Derive(export func(label string, context []byte, length int) ([]byte, error)) (*Keys, error) {
	b, err := export(Label, nil, idSize+2*keySize)
	if err != nil {
		return nil, fmt.Errorf("sealed keys: %w", err)
	}
	return &Keys{ID: ID(b), Up: [keySize]byte(b[idSize:]), Down: [keySize]byte(b[idSize+keySize:])}, nil
}

// Request is what a request is, beside its fields and its body.
type Request struct {
	Counter uint64 // from 1
	Method  string
	Target  string // path and query as they travel
}

// requestKey is the key of a request.
func (k *Keys) requestKey(r Request) ([]byte, error) {
	if r.Counter == 0 || len(r.Method) > 1<<8-1 || len(r.Target) > 1<<16-1 {
		return nil, ErrMalformed
	}
	info := append([]byte("atls-ws sealed request"), 0)
	info = binary.BigEndian.AppendUint64(info, r.Counter)
	info = append(append(info, byte(len(r.Method))), r.Method...)
	info = append(binary.BigEndian.AppendUint16(info, uint16(len(r.Target))), r.Target...)
	return hkdf.Expand(sha256.New, k.Up[:], string(info), keySize)
}

// answerKey is the key of the answer to the request with that counter.
func (k *Keys) answerKey(counter uint64, status int) ([]byte, error) {
	if counter == 0 || status < 200 || status > 999 {
		return nil, ErrMalformed
	}
	info := append([]byte("atls-ws sealed answer"), 0)
	info = binary.BigEndian.AppendUint64(info, counter)
	info = binary.BigEndian.AppendUint16(info, uint16(status))
	return hkdf.Expand(sha256.New, k.Down[:], string(info), keySize)
}

// keyID is the coding's: which keys, and which message.
func keyID(id ID, counter uint64) []byte {
	return binary.BigEndian.AppendUint64(id[:], counter)
}

func parseKeyID(b []byte) (id ID, counter uint64, err error) {
	if len(b) != keyIDSize {
		return id, 0, fmt.Errorf("%w: a key id of %d bytes", ErrMalformed, len(b))
	}
	if counter = binary.BigEndian.Uint64(b[idSize:]); counter == 0 {
		return id, 0, fmt.Errorf("%w: counter 0", ErrMalformed)
	}
	return ID(b), counter, nil
}
