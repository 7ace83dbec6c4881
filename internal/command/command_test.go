package command

import (
	"bytes"
	"testing"
)

func TestTailKeepsTheEnd(t *testing.T) {
	var b tail
	for i := range 5 {
		if n, err := b.Write(bytes.Repeat([]byte{'a' + byte(i)}, 30<<10)); n != 30<<10 || err != nil {
			t.Fatal(n, err)
		}
	}
	if len(b.buf) != maxOutput || b.buf[0] != 'c' || b.buf[maxOutput-1] != 'e' {
		t.Errorf("%d bytes from %q to %q", len(b.buf), b.buf[0], b.buf[len(b.buf)-1])
	}
	_, _ = b.Write(bytes.Repeat([]byte{'z'}, maxOutput+1))
	if len(b.buf) != maxOutput || b.buf[0] != 'z' {
		t.Errorf("%d bytes from %q", len(b.buf), b.buf[0])
	}
}
