package ece

import (
	"errors"
	"io"
)

// Writer encrypts what is written to it. Close writes the last record; the
// writer below stays open. It is not for concurrent use.
type Writer struct {
	w       io.Writer
	records *records
	head    []byte // until it is written
	size    int    // of a record
	plain   []byte // of the record that is being filled
	out     []byte
	err     error
}

var errClosed = errors.New("aes128gcm: write after close")

// NewWriter makes a Writer. Nothing is written before the first record is.
func NewWriter(w io.Writer, key []byte, h *Header) (*Writer, error) {
	head, err := h.append(nil)
	if err != nil {
		return nil, err
	}
	r, err := newRecords(key, h)
	if err != nil {
		return nil, err
	}
	return &Writer{w: w, records: r, head: head, size: h.RecordSize}, nil
}

// Write implements io.Writer. A full record waits for what follows it, for the
// last one is marked.
func (w *Writer) Write(p []byte) (n int, err error) {
	for len(p) > 0 && w.err == nil {
		if len(w.plain) == w.size-overhead {
			w.record(more)
		}
		part := min(len(p), w.size-overhead-len(w.plain))
		w.plain, p, n = append(w.plain, p[:part]...), p[part:], n+part
	}
	return n, w.err
}

// Flush writes what waits, in a record that is filled up with padding.
func (w *Writer) Flush() error {
	if len(w.plain) > 0 && w.err == nil {
		w.record(more)
	}
	return w.err
}

// Close writes the last record.
func (w *Writer) Close() error {
	if w.err == nil {
		w.record(last)
	}
	if w.err != nil {
		return w.err
	}
	w.err = errClosed
	return nil
}

func (w *Writer) record(delimiter byte) {
	w.plain = append(w.plain, delimiter)
	if delimiter == more {
		w.plain = append(w.plain, make([]byte, w.size-tagSize-len(w.plain))...)
	}
	w.out = w.records.aead.Seal(append(w.out[:0], w.head...), w.records.nonce(), w.plain, nil)
	w.head, w.plain = nil, w.plain[:0]
	_, w.err = w.w.Write(w.out)
}
