package sealed

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/atls-ws/atls-ws/internal/ece"
)

// Coding is the content coding of messages.
const Coding = ece.Coding

// Writer seals a body.
type Writer = ece.Writer

const (
	// Header is where a message without a body travels, in base64url.
	Header = "Atls-Sealed"
	// maxHeader bounds its value: servers and boxes take 8 KiB of all fields.
	maxHeader = 6 << 10
	// Problem begins the types (RFC 9457) of the unsealed answers to what cannot be
	// opened: malformed, required, no-key, replayed, unavailable.
	Problem = "urn:atls-ws:sealed-"
	// RecordSize is that of the messages made here.
	RecordSize = 4096
)

// Sealed is the message in the making.
type Sealed struct {
	plain []byte // field lines
	key   []byte
	head  ece.Header
}

// SealRequest begins a request.
func (k *Keys) SealRequest(r Request, fields http.Header) (*Sealed, error) {
	key, err := k.requestKey(r)
	if err != nil {
		return nil, err
	}
	return seal(key, keyID(k.ID, r.Counter), fields)
}

// SealAnswer begins the answer to the request with that counter.
func (k *Keys) SealAnswer(counter uint64, status int, fields http.Header) (*Sealed, error) {
	key, err := k.answerKey(counter, status)
	if err != nil {
		return nil, err
	}
	return seal(key, keyID(k.ID, counter), fields)
}

func seal(key, id []byte, fields http.Header) (*Sealed, error) {
	s := &Sealed{key: key, head: ece.Header{RecordSize: RecordSize, KeyID: id}}
	_, _ = rand.Read(s.head.Salt[:]) // never fails
	var err error
	s.plain, err = appendFields(nil, fields)
	return s, err
}

// Value is the message without a body, for Header.
func (s *Sealed) Value() (string, error) {
	var b bytes.Buffer
	w, err := s.Writer(&b)
	if err != nil {
		return "", err
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	v := base64.RawURLEncoding.EncodeToString(b.Bytes())
	if len(v) > maxHeader {
		return "", fmt.Errorf("a sealed message without a body has room for about %d bytes of header fields", maxHeader*3/4)
	}
	return v, nil
}

// Writer seals the body that is written to it; the caller closes it.
func (s *Sealed) Writer(w io.Writer) (*Writer, error) {
	e, err := ece.NewWriter(w, s.key, &s.head)
	if err != nil {
		return nil, err
	}
	_, err = e.Write(s.plain)
	return e, err
}

// Size is how long the message is with a body of n bytes.
func (s *Sealed) Size(n int64) int64 {
	return ece.Size(int64(len(s.plain))+n, s.head.RecordSize, len(s.head.KeyID))
}

// Reader seals the body that it reads. Close closes the body.
func (s *Sealed) Reader(body io.ReadCloser) (io.ReadCloser, error) {
	r := &reader{body: body, buf: make([]byte, RecordSize)}
	var err error
	r.w, err = s.Writer(&r.out)
	return r, err
}

type reader struct {
	body io.ReadCloser
	w    *Writer
	out  bytes.Buffer
	buf  []byte
	err  error // of the body, io.EOF once the message is whole
}

func (r *reader) Read(p []byte) (int, error) {
	for r.out.Len() == 0 && r.err == nil {
		n, err := r.body.Read(r.buf)
		_, _ = r.w.Write(r.buf[:n]) // a Buffer takes it
		if r.err = err; errors.Is(err, io.EOF) {
			_ = r.w.Close()
		}
	}
	if r.out.Len() > 0 {
		return r.out.Read(p)
	}
	return 0, r.err
}

func (r *reader) Close() error { return r.body.Close() }

// Message is a message that is being opened.
type Message struct {
	Counter uint64
	Header  http.Header
	Body    io.Reader // its end is the message's: until io.EOF it may be cut
}

// OpenRequest reads a request until its fields are authentic. keys finds those
// with an id; its error is returned as it is.
func OpenRequest(r io.Reader, method, target string, keys func(ID) (*Keys, error)) (*Message, error) {
	m := new(Message)
	return m, m.open(r, func(id ID, counter uint64) ([]byte, error) {
		k, err := keys(id)
		if err != nil {
			return nil, err
		}
		return k.requestKey(Request{counter, method, target})
	})
}

// OpenAnswer is OpenRequest for the answer to the request with that counter.
func (k *Keys) OpenAnswer(r io.Reader, counter uint64, status int) (*Message, error) {
	m := new(Message)
	return m, m.open(r, func(id ID, c uint64) ([]byte, error) {
		if id != k.ID || c != counter {
			return nil, fmt.Errorf("%w: an answer to another request", ErrMalformed)
		}
		return k.answerKey(counter, status)
	})
}

// open reads the coding's header and the fields.
func (m *Message) open(r io.Reader, key func(ID, uint64) ([]byte, error)) error {
	e, err := ece.NewReader(r, func(h *ece.Header) ([]byte, error) {
		id, counter, err := parseKeyID(h.KeyID)
		if err != nil {
			return nil, err
		}
		m.Counter = counter
		return key(id, counter)
	})
	if err != nil {
		return err
	}
	m.Header, m.Body, err = readFields(e)
	return err
}

// FromValue is a reader of the message that a Header is.
func FromValue(value string) (io.Reader, error) {
	if len(value) > maxHeader {
		return nil, fmt.Errorf("%w: %s is too long", ErrMalformed, Header)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(value)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrMalformed, Header, err)
	}
	return bytes.NewReader(b), nil
}
