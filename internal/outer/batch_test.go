package outer

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
)

// recorder keeps what is written, and fails when told to.
type recorder struct {
	net.Conn
	writes [][]byte
	err    error
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	r.writes = append(r.writes, bytes.Clone(p))
	return len(p), nil
}

func TestBatchGathersWritesInOrder(t *testing.T) {
	r := &recorder{}
	b := NewBatch(r)
	write := func(n int, with byte) {
		if k, err := b.Write(bytes.Repeat([]byte{with}, n)); k != n || err != nil {
			t.Fatal(k, err)
		}
	}
	write(10, 'a')
	b.Cork()
	write(20, 'b')
	write(30, 'c')
	if len(r.writes) != 1 {
		t.Errorf("%d writes while corked", len(r.writes))
	}
	if err := b.Uncork(); err != nil {
		t.Fatal(err)
	}
	if len(r.writes) != 2 || len(r.writes[1]) != 50 || r.writes[1][49] != 'c' {
		t.Errorf("writes %q", r.writes)
	}
	b.Cork()
	write(batchSize-1, 'd')
	write(2, 'e')           // no room for it beside the first
	write(batchSize+5, 'f') // nor for this at all
	_ = b.Uncork()
	var all []byte
	for _, w := range r.writes[2:] {
		all = append(all, w...)
	}
	want := bytes.Repeat([]byte("d"), batchSize-1)
	want = append(append(want, "ee"...), bytes.Repeat([]byte("f"), batchSize+5)...)
	if !bytes.Equal(all, want) {
		t.Errorf("%d bytes, want %d, or in another order", len(all), len(want))
	}
}

func TestBatchTellsAnErrorLater(t *testing.T) {
	r := &recorder{err: errors.New("broken")}
	b := NewBatch(r)
	b.Cork()
	_, _ = b.Write([]byte("x"))
	if err := b.Uncork(); err == nil {
		t.Error("Uncork says nothing")
	}
	if _, err := b.Write([]byte("y")); err == nil {
		t.Error("a later write succeeds")
	}
}

func TestCloseWaitsForWhatFollowsAWrite(t *testing.T) {
	near, far := net.Pipe()
	go func() { _, _ = io.Copy(io.Discard, far) }()
	b := NewBatch(near)
	following, ended := make(chan struct{}), false
	b.AfterWrite(func() {
		close(following)
		_, _ = b.Read(make([]byte, 1)) // until the end
		ended = true
	})
	if _, err := b.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	<-following
	_ = b.Close()
	if !ended {
		t.Error("Close did not wait")
	}
	b.AfterWrite(func() { t.Error("called after Close") })
	_, _ = b.Write([]byte("x"))
	_ = far.Close()
}
