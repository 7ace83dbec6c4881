package wsconn

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// TestWrongFrameInWhatWasReadAhead: what is left of it must not be read for ever.
func TestWrongFrameInWhatWasReadAhead(t *testing.T) {
	t.Parallel()
	for _, hdr := range []string{"", "Sec-WebSocket-Protocol: atls.v2\r\n"} {
		c, br, s := upgraded(t, frame(opText, strings.Repeat("x", 1000)), hdr)
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if op, _ := readFrame(t, br); op != opClose {
			t.Errorf("opcode %d", op)
		}
		if _, err := io.Copy(io.Discard, br); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("the carrier is still open")
		}
		if s != nil {
			if _, err := s.Read(make([]byte, 1)); err == nil || errors.Is(err, net.ErrClosed) {
				t.Errorf("read: %v", err)
			}
			_ = s.Close()
		}
	}
}
