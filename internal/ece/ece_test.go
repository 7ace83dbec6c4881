package ece

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

func b64(tb testing.TB, s string) []byte {
	tb.Helper()
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// examples are those of RFC 8188.
var examples = map[string]struct {
	key, keyID, salt, coded string
	size                    int
	parts                   []string // of the text, a record each
}{
	"3.1": {
		key: "yqdlZ-tYemfogSmv7Ws5PQ", salt: "I1BsxtFttlv3u_Oo94xnmw", size: 4096,
		coded: "I1BsxtFttlv3u_Oo94xnmwAAEAAA-NAVub2qFgBEuQKRapoZu-IxkIva3MEB1PD-ly8Thjg", parts: []string{"I am the walrus"},
	},
	"3.2": {
		key: "BO3ZVPxUlnLORbVGMpbT1Q", keyID: "a1", salt: "uNCkWiNYzKTnBN9ji3-qWA", size: 25,
		coded: "uNCkWiNYzKTnBN9ji3-qWAAAABkCYTHOG8chz_gnvgOqdGYovxyjuqRyJFjEDyoF1Fvkj6hQPdPHI51OEUKEpgz3SsLWIqS_uA",
		parts: []string{"I am th", "e walrus"},
	},
}

func given(key []byte) func(*Header) ([]byte, error) {
	return func(*Header) ([]byte, error) { return key, nil }
}

func decode(key, coded []byte) (string, error) {
	r, err := NewReader(bytes.NewReader(coded), given(key))
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(r)
	return string(b), err
}

func encode(tb testing.TB, key []byte, size int, parts ...string) []byte {
	tb.Helper()
	var b bytes.Buffer
	w, err := NewWriter(&b, key, &Header{RecordSize: size, KeyID: []byte("id")})
	if err != nil {
		tb.Fatal(err)
	}
	for i, p := range parts {
		if i > 0 {
			if err := w.Flush(); err != nil {
				tb.Fatal(err)
			}
		}
		if _, err := w.Write([]byte(p)); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func TestExamplesOfRFC8188(t *testing.T) {
	for name, e := range examples {
		key, coded := b64(t, e.key), b64(t, e.coded)
		var keyID string
		r, err := NewReader(bytes.NewReader(coded), func(h *Header) ([]byte, error) { keyID = string(h.KeyID); return key, nil })
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(iotest.OneByteReader(r))
		if err != nil || string(text) != "I am the walrus" || keyID != e.keyID {
			t.Errorf("%s: %q, key id %q, %v", name, text, keyID, err)
		}
		var b bytes.Buffer
		w, err := NewWriter(&b, key, &Header{Salt: [SaltSize]byte(b64(t, e.salt)), RecordSize: e.size, KeyID: []byte(e.keyID)})
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range e.parts {
			if i > 0 { // the example pads here
				if err := w.Flush(); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := w.Write([]byte(p)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil || !bytes.Equal(b.Bytes(), coded) {
			t.Errorf("%s: written as %x, want %x, %v", name, b.Bytes(), coded, err)
		}
	}
}

func TestEveryLengthComesBack(t *testing.T) {
	key := make([]byte, 16)
	for n := range 70 {
		for _, size := range []int{MinRecord, 25, 33, 4096} {
			text := strings.Repeat("x", n)
			coded := encode(t, key, size, text)
			if got := Size(int64(n), size, 2); got != int64(len(coded)) {
				t.Errorf("%d bytes in records of %d: %d, said %d", n, size, len(coded), got)
			}
			if got, err := decode(key, coded); got != text || err != nil {
				t.Errorf("%d bytes in records of %d: %q, %v", n, size, got, err)
			}
		}
	}
}

func TestEachCutIsSeen(t *testing.T) {
	key := make([]byte, 16)
	coded := encode(t, key, 25, "the first", "the second, which is longer than a record is", "third")
	for n := range coded {
		if text, err := decode(key, coded[:n]); err == nil {
			t.Errorf("cut to %d bytes: %q", n, text)
		}
	}
	// Whole records less: the keys are right and every record is authentic.
	if _, err := decode(key, coded[:fixed+2+25]); !errors.Is(err, ErrTruncated) {
		t.Error(err)
	}
}

func TestEachChangeIsSeen(t *testing.T) {
	key := make([]byte, 16)
	coded := encode(t, key, 25, "the first", "second")
	for i := range coded {
		if i >= fixed && i < fixed+2 {
			continue // the key id only names the key
		}
		bad := slices.Clone(coded)
		bad[i] ^= 1
		if text, err := decode(key, bad); err == nil {
			t.Errorf("byte %d changed: %q", i, text)
		}
	}
	at := fixed + 2
	swapped := slices.Concat(coded[:at], coded[at+25:at+50], coded[at:at+25], coded[at+50:])
	for name, bad := range map[string][]byte{
		"records in another order": swapped,
		"a record twice":           slices.Concat(coded[:at+25], coded[at:]),
		"a record less":            slices.Concat(coded[:at], coded[at+25:]),
	} {
		if _, err := decode(key, bad); !errors.Is(err, ErrAuthentic) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := decode(key, append(slices.Clone(coded), 0)); err == nil {
		t.Error("a byte more passes")
	}
	if _, err := decode(make([]byte, 15), coded); !errors.Is(err, ErrAuthentic) {
		t.Errorf("another key: %v", err)
	}
}

func TestRecordSizeIsBounded(t *testing.T) {
	for _, size := range []int{0, MinRecord - 1, MaxRecord + 1} {
		if _, err := NewWriter(io.Discard, nil, &Header{RecordSize: size}); !errors.Is(err, ErrFormat) {
			t.Errorf("%d: %v", size, err)
		}
	}
	head := make([]byte, fixed)
	for _, size := range []byte{0, 2} { // in units of 64 KiB
		head[SaltSize+1] = size
		if _, err := decode(nil, head); !errors.Is(err, ErrFormat) {
			t.Errorf("%d: %v", size, err)
		}
	}
}

func FuzzReader(f *testing.F) {
	key := make([]byte, 16)
	for _, e := range examples {
		f.Add(b64(f, e.coded))
	}
	f.Add(encode(f, key, 18, "a few bytes"))
	f.Fuzz(func(t *testing.T, coded []byte) {
		text, err := decode(key, coded)
		if err == nil && len(text) >= len(coded) {
			t.Errorf("%d bytes of %d", len(text), len(coded))
		}
	})
}

// What can be read is what was written, however it is cut into records.
func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte("hello"), uint16(18))
	f.Fuzz(func(t *testing.T, text []byte, size uint16) {
		if size < MinRecord {
			return
		}
		coded := encode(t, []byte("key"), int(size), string(text[:len(text)/2]), string(text[len(text)/2:]))
		if got, err := decode([]byte("key"), coded); got != string(text) || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	})
}
