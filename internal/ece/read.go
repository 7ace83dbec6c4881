package ece

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Reader decrypts. What it gives is authentic, and io.EOF says that it was all;
// until then more may be missing. It is not for concurrent use.
type Reader struct {
	r       io.Reader
	records *records
	record  []byte // room for one
	plain   []byte // of it, not yet read
	done    bool   // the last record was met
	err     error
}

// NewReader reads the header and asks key for the key that it names; nothing is
// authentic yet. An error of key is returned as it is.
func NewReader(r io.Reader, key func(h *Header) ([]byte, error)) (*Reader, error) {
	head := make([]byte, fixed)
	if err := full(r, head); err != nil {
		return nil, err
	}
	h := &Header{Salt: [SaltSize]byte(head), KeyID: make([]byte, head[fixed-1])}
	size := binary.BigEndian.Uint32(head[SaltSize:])
	if size < MinRecord || size > MaxRecord {
		return nil, fmt.Errorf("%w: record size %d, want %d to %d", ErrFormat, size, MinRecord, MaxRecord)
	}
	h.RecordSize = int(size)
	if err := full(r, h.KeyID); err != nil {
		return nil, err
	}
	k, err := key(h)
	if err != nil {
		return nil, err
	}
	rs, err := newRecords(k, h)
	if err != nil {
		return nil, err
	}
	return &Reader{r: r, records: rs, record: make([]byte, h.RecordSize)}, nil
}

func full(r io.Reader, b []byte) error {
	_, err := io.ReadFull(r, b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrTruncated
	}
	return err
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(r.plain) == 0 && r.err == nil {
		r.plain, r.err = r.next()
	}
	n := copy(p, r.plain)
	r.plain = r.plain[n:]
	if len(r.plain) > 0 || n > 0 {
		return n, nil
	}
	return 0, r.err
}

// next is the text of the next record; io.EOF after the last.
func (r *Reader) next() ([]byte, error) {
	if r.done {
		// A byte beyond the last record is not the sender's.
		if _, err := io.ReadFull(r.r, r.record[:1]); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%w: more after the last record", ErrFormat)
	}
	n, err := io.ReadFull(r.r, r.record)
	switch {
	case errors.Is(err, io.EOF):
		return nil, ErrTruncated
	case err != nil && !errors.Is(err, io.ErrUnexpectedEOF):
		return nil, err
	}
	plain, err := r.records.aead.Open(r.record[:0], r.records.nonce(), r.record[:n], nil)
	if err != nil {
		return nil, ErrAuthentic
	}
	plain = bytes.TrimRight(plain, "\x00")
	if len(plain) == 0 {
		return nil, fmt.Errorf("%w: a record of padding alone", ErrFormat)
	}
	text, delimiter := plain[:len(plain)-1], plain[len(plain)-1]
	switch {
	case delimiter == last:
		r.done = true
	case delimiter != more:
		return nil, fmt.Errorf("%w: delimiter %#x", ErrFormat, delimiter)
	case n < len(r.record):
		return nil, ErrTruncated
	}
	return text, nil
}
