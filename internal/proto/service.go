package proto

import (
	"encoding/binary"
	"fmt"
	"io"
)

// WriteOpen writes the header of a service stream: version u8 | name length u8 | name.
func WriteOpen(w io.Writer, service string) error {
	if err := CheckName(service); err != nil {
		return fmt.Errorf("service: %w", err)
	}
	buf := make([]byte, 0, 2+len(service))
	buf = append(buf, Version, byte(len(service)))
	_, err := w.Write(append(buf, service...))
	return err
}

// ReadOpen reads the header of a service stream and no byte more.
func ReadOpen(r io.Reader) (service string, err error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return "", err
	}
	if head[0] != Version {
		return "", fmt.Errorf("%w: service stream of version %d, want %d", ErrMalformed, head[0], Version)
	}
	name := make([]byte, head[1])
	if _, err := io.ReadFull(r, name); err != nil {
		return "", noEOF(err)
	}
	if err := CheckName(string(name)); err != nil {
		return "", fmt.Errorf("%w: service: %w", ErrMalformed, err)
	}
	return string(name), nil
}

// Answer is the accepting end's word on a service stream.
type Answer struct {
	Code Code
	Text string
}

// WriteAnswer writes code u8 | text length u16 | text. The text is cut at MaxText.
func WriteAnswer(w io.Writer, a Answer) error {
	_, err := w.Write(appendAnswer(nil, a))
	return err
}

func appendAnswer(buf []byte, a Answer) []byte {
	text := clip(a.Text, MaxText)
	buf = append(buf, byte(a.Code))
	buf = binary.BigEndian.AppendUint16(buf, uint16(len(text)))
	return append(buf, text...)
}

// ReadAnswer reads an answer and no byte more.
func ReadAnswer(r io.Reader) (Answer, error) {
	var head [3]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return Answer{}, err
	}
	n := binary.BigEndian.Uint16(head[1:])
	if n > MaxText {
		return Answer{}, fmt.Errorf("%w: answer text of %d bytes, at most %d", ErrTooLarge, n, MaxText)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return Answer{}, noEOF(err)
	}
	return Answer{Code(head[0]), string(text)}, nil
}
