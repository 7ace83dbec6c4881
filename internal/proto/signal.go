package proto

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// Frame types of the signal stream. Unknown types are skipped.
const (
	FrameSignal byte = 1 // opener to acceptor
	FrameDrain  byte = 2 // opener to acceptor
	FrameBye    byte = 3 // opener to acceptor: why the session ends now
	FrameAck    byte = 0x81
)

// Signal is a small message, answered by an ack or a refusal.
type Signal struct {
	ID          [16]byte
	Seq         uint64    // place in the sender's order; 0 when it keeps none
	Expiry      time.Time // millisecond resolution; zero is never
	Name        string
	ContentType string
	Data        []byte // at most MaxData
}

// Check says whether the signal can be sent.
func (s *Signal) Check() error {
	if err := CheckName(s.Name); err != nil {
		return fmt.Errorf("signal: %w", err)
	}
	if len(s.ContentType) > MaxName {
		return fmt.Errorf("signal: content type of %d bytes, at most %d", len(s.ContentType), MaxName)
	}
	if len(s.Data) > MaxData {
		return fmt.Errorf("%w: signal data of %d bytes, at most %d", ErrTooLarge, len(s.Data), MaxData)
	}
	return nil
}

// Ack answers the signal of that id: OK with the handler's text, or a refusal.
type Ack struct {
	ID   [16]byte
	Code Code
	Text string
}

// Drain asks the other end to come back with a new session after a while: After
// plus a random part of Spread. Millisecond resolution.
type Drain struct {
	After, Spread time.Duration
}

// AppendSignal appends a whole frame: type u8 | length u32 | id 16 | seq u64 |
// expiry u64 (Unix ms, 0 never) | name length u8 | name | content type length
// u8 | content type | data. The signal must pass Check.
func AppendSignal(buf []byte, s *Signal) []byte {
	n := 16 + 8 + 8 + 1 + len(s.Name) + 1 + len(s.ContentType) + len(s.Data)
	buf = appendHead(buf, FrameSignal, n)
	buf = append(buf, s.ID[:]...)
	buf = binary.BigEndian.AppendUint64(buf, s.Seq)
	var expiry uint64
	if !s.Expiry.IsZero() {
		expiry = uint64(max(s.Expiry.UnixMilli(), 1))
	}
	buf = binary.BigEndian.AppendUint64(buf, expiry)
	buf = append(append(buf, byte(len(s.Name))), s.Name...)
	buf = append(append(buf, byte(len(s.ContentType))), s.ContentType...)
	return append(buf, s.Data...)
}

// ParseSignal reads a FrameSignal's body. The signal's Data aliases body.
func ParseSignal(body []byte) (Signal, error) {
	var s Signal
	if len(body) < 34 {
		return s, fmt.Errorf("%w: signal of %d bytes", ErrMalformed, len(body))
	}
	copy(s.ID[:], body)
	s.Seq = binary.BigEndian.Uint64(body[16:])
	if ms := binary.BigEndian.Uint64(body[24:]); ms > 1<<52 {
		return s, fmt.Errorf("%w: signal expiry %d", ErrMalformed, ms)
	} else if ms != 0 {
		s.Expiry = time.UnixMilli(int64(ms))
	}
	rest := body[32:]
	var ok bool
	if s.Name, rest, ok = cutString(rest); !ok {
		return s, fmt.Errorf("%w: signal name is cut off", ErrMalformed)
	}
	if s.ContentType, rest, ok = cutString(rest); !ok {
		return s, fmt.Errorf("%w: signal content type is cut off", ErrMalformed)
	}
	s.Data = rest
	if err := s.Check(); err != nil {
		return s, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return s, nil
}

// AppendAck appends a whole frame: type u8 | length u32 | id 16 | code u8 |
// text length u16 | text.
func AppendAck(buf []byte, a *Ack) []byte {
	buf = appendHead(buf, FrameAck, 16+3+len(clip(a.Text, MaxText)))
	buf = append(buf, a.ID[:]...)
	return appendAnswer(buf, Answer{a.Code, a.Text})
}

// ParseAck reads a FrameAck's body.
func ParseAck(body []byte) (Ack, error) {
	var a Ack
	if len(body) < 19 {
		return a, fmt.Errorf("%w: ack of %d bytes", ErrMalformed, len(body))
	}
	copy(a.ID[:], body)
	ans, err := parseAnswer(body[16:])
	a.Code, a.Text = ans.Code, ans.Text
	return a, err
}

// AppendDrain appends a whole frame: type u8 | length u32 | after u32 ms | spread u32 ms.
func AppendDrain(buf []byte, d Drain) []byte {
	buf = appendHead(buf, FrameDrain, 8)
	buf = binary.BigEndian.AppendUint32(buf, millis(d.After))
	return binary.BigEndian.AppendUint32(buf, millis(d.Spread))
}

// ParseDrain reads a FrameDrain's body.
func ParseDrain(body []byte) (Drain, error) {
	if len(body) != 8 {
		return Drain{}, fmt.Errorf("%w: drain of %d bytes, want 8", ErrMalformed, len(body))
	}
	return Drain{
		After:  time.Duration(binary.BigEndian.Uint32(body)) * time.Millisecond,
		Spread: time.Duration(binary.BigEndian.Uint32(body[4:])) * time.Millisecond,
	}, nil
}

// AppendBye appends a whole frame: type u8 | length u32 | code u8 | text length u16 | text.
func AppendBye(buf []byte, a Answer) []byte {
	buf = appendHead(buf, FrameBye, 3+len(clip(a.Text, MaxText)))
	return appendAnswer(buf, a)
}

// ParseBye reads a FrameBye's body.
func ParseBye(body []byte) (Answer, error) { return parseAnswer(body) }

// ReadFrame reads one frame of the signal stream. The caller owns body.
func ReadFrame(r io.Reader) (typ byte, body []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > MaxFrame {
		return 0, nil, fmt.Errorf("%w: frame of %d bytes, at most %d", ErrTooLarge, n, MaxFrame)
	}
	body = make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, noEOF(err)
	}
	return head[0], body, nil
}

func appendHead(buf []byte, typ byte, n int) []byte {
	return binary.BigEndian.AppendUint32(append(buf, typ), uint32(n))
}

func parseAnswer(body []byte) (Answer, error) {
	if len(body) < 3 {
		return Answer{}, fmt.Errorf("%w: answer of %d bytes", ErrMalformed, len(body))
	}
	n := int(binary.BigEndian.Uint16(body[1:]))
	if n > MaxText || n != len(body)-3 {
		return Answer{}, fmt.Errorf("%w: answer text of %d bytes in %d", ErrMalformed, n, len(body)-3)
	}
	return Answer{Code(body[0]), string(body[3:])}, nil
}

func cutString(b []byte) (s string, rest []byte, ok bool) {
	if len(b) < 1 || len(b) < 1+int(b[0]) {
		return "", nil, false
	}
	n := 1 + int(b[0])
	return string(b[1:n]), b[n:], true
}

func millis(d time.Duration) uint32 {
	return uint32(min(max(d.Milliseconds(), 0), 1<<32-1))
}
