package proto

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// MaxDatagram is the limit of a datagram, in bytes.
const MaxDatagram = math.MaxUint16

// AppendDatagram appends a datagram as it stands in the stream of a UDP
// service: length u16 | data.
func AppendDatagram(buf, data []byte) ([]byte, error) {
	if len(data) > MaxDatagram {
		return buf, fmt.Errorf("%w: datagram of %d bytes, at most %d", ErrTooLarge, len(data), MaxDatagram)
	}
	buf = binary.BigEndian.AppendUint16(buf, uint16(len(data)))
	return append(buf, data...), nil
}

// ReadDatagram reads a datagram into buf, which has room for MaxDatagram bytes,
// and returns its length. The stream's end between two datagrams is io.EOF.
func ReadDatagram(r io.Reader, buf []byte) (int, error) {
	if _, err := io.ReadFull(r, buf[:2]); err != nil {
		return 0, err
	}
	n := int(binary.BigEndian.Uint16(buf))
	if _, err := io.ReadFull(r, buf[:n]); err != nil {
		return 0, noEOF(err)
	}
	return n, nil
}
