package proto

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

func TestDatagramsKeepTheirBoundaries(t *testing.T) {
	var stream []byte
	sent := [][]byte{[]byte("one"), {}, bytes.Repeat([]byte{7}, MaxDatagram)}
	for _, d := range sent {
		var err error
		if stream, err = AppendDatagram(stream, d); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.HasPrefix(stream, []byte("\x00\x03one\x00\x00\xff\xff\x07")) {
		t.Errorf("bytes %x", stream[:10])
	}
	r, buf := bytes.NewReader(stream), make([]byte, MaxDatagram)
	for _, d := range sent {
		if n, err := ReadDatagram(r, buf); err != nil || !bytes.Equal(buf[:n], d) {
			t.Errorf("%d bytes, %v, want %d", n, err, len(d))
		}
	}
	if _, err := ReadDatagram(r, buf); err != io.EOF {
		t.Errorf("end: %v", err)
	}
	if _, err := ReadDatagram(bytes.NewReader(stream[:4]), buf); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut off: %v", err)
	}
	if _, err := AppendDatagram(nil, make([]byte, MaxDatagram+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
}

func FuzzReadDatagram(f *testing.F) {
	f.Add([]byte("\x00\x03one\x00\x00"))
	f.Add([]byte("\xff\xff1"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		r, buf, again := bytes.NewReader(stream), make([]byte, MaxDatagram), []byte(nil)
		for {
			n, err := ReadDatagram(r, buf)
			if err != nil {
				break
			}
			if again, err = AppendDatagram(again, buf[:n]); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.HasPrefix(stream, again) {
			t.Errorf("%x read as %x", stream, again)
		}
	})
}
