// Package ece is the content coding aes128gcm of RFC 8188: a stream of
// encrypted records, each authentic and in its place, with an end that cannot
// be cut off unseen.
package ece

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// Coding is the name of the content coding.
const Coding = "aes128gcm"

const (
	// SaltSize is the length of a salt.
	SaltSize = 16
	// MinRecord is the least record size.
	MinRecord = 18
	// MaxRecord is the largest one that is taken: a bound of ours.
	MaxRecord = 64 << 10
	// MaxKeyID is the longest key id.
	MaxKeyID = 255

	tagSize   = 16
	nonceSize = 12
	overhead  = tagSize + 1 // and the delimiter
	fixed     = SaltSize + 4 + 1

	more = 1 // delimiter of a record that others follow
	last = 2 // of the last one
)

var (
	// ErrFormat says that bytes are not of the coding, or not within the bounds.
	ErrFormat = errors.New("aes128gcm: malformed")
	// ErrAuthentic says that a record is not what the holder of the key made.
	ErrAuthentic = errors.New("aes128gcm: not authentic")
	// ErrTruncated says that the end is missing.
	ErrTruncated = errors.New("aes128gcm: truncated")
)

// Header begins the coding (RFC 8188 section 2.1). A salt must not be used twice
// with a key.
type Header struct {
	Salt       [SaltSize]byte
	RecordSize int
	KeyID      []byte
}

// append is the header's bytes.
func (h *Header) append(b []byte) ([]byte, error) {
	if h.RecordSize < MinRecord || h.RecordSize > MaxRecord {
		return nil, fmt.Errorf("%w: record size %d, want %d to %d", ErrFormat, h.RecordSize, MinRecord, MaxRecord)
	}
	if len(h.KeyID) > MaxKeyID {
		return nil, fmt.Errorf("%w: a key id of %d bytes", ErrFormat, len(h.KeyID))
	}
	b = append(b, h.Salt[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(h.RecordSize))
	b = append(b, byte(len(h.KeyID)))
	return append(b, h.KeyID...), nil
}

// Size is how long n bytes become.
func Size(n int64, recordSize, keyID int) int64 {
	room := int64(recordSize - overhead)
	records := max(1, (n+room-1)/room)
	return fixed + int64(keyID) + n + records*overhead
}

// records encrypts and decrypts them in order.
type records struct {
	aead cipher.AEAD
	base [nonceSize]byte
	seq  uint64
}

func newRecords(key []byte, h *Header) (*records, error) {
	prk, err := hkdf.Extract(sha256.New, key, h.Salt[:])
	if err != nil {
		return nil, err
	}
	cek, err := hkdf.Expand(sha256.New, prk, "Content-Encoding: aes128gcm\x00", 16)
	if err != nil {
		return nil, err
	}
	nonce, err := hkdf.Expand(sha256.New, prk, "Content-Encoding: nonce\x00", nonceSize)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(cek)
	if err != nil {
		return nil, err
	}
	r := &records{base: [nonceSize]byte(nonce)}
	r.aead, err = cipher.NewGCM(block)
	return r, err
}

// nonce is that of the next record (RFC 8188 section 2.3).
func (r *records) nonce() []byte {
	n := r.base
	tail := n[nonceSize-8:]
	binary.BigEndian.PutUint64(tail, binary.BigEndian.Uint64(tail)^r.seq)
	r.seq++
	return n[:]
}
