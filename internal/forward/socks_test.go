package forward

import (
	"bytes"
	"net"
	"strings"
	"testing"
	"time"
)

// wire is a connection whose peer has said all that it will.
type wire struct {
	net.Conn
	in  *bytes.Reader
	out bytes.Buffer
}

func (w *wire) Read(p []byte) (int, error)  { return w.in.Read(p) }
func (w *wire) Write(p []byte) (int, error) { return w.out.Write(p) }
func (w *wire) SetDeadline(time.Time) error { return nil }

func FuzzReadSOCKS(f *testing.F) {
	f.Add([]byte("\x05\x01\x00\x05\x01\x00\x03\x07db.test\x15\x38"))
	f.Add([]byte("\x05\x02\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50"))
	f.Add([]byte("\x05\x01\x00\x05\x01\x00\x04\x00"))
	f.Fuzz(func(t *testing.T, said []byte) {
		w := &wire{in: bytes.NewReader(said)}
		to, err := readSOCKS(w)
		if err == nil && (to == "" || strings.ContainsAny(to, "\r\n \x00")) {
			t.Errorf("%x leads to %q, which goes into a header", said, to)
		}
		if w.out.Len() > 12 {
			t.Errorf("answered %x", w.out.Bytes())
		}
	})
}
