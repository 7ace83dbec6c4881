package limit

import (
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/atls-ws/atls-ws/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

func TestConnMovesAsManyBytesASecondAsItMay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		c := NewConn(a, nil, Rate{NewBucket(1000), NewBucket(10_000)})
		go func() { _, _ = io.Copy(io.Discard, b) }()
		started := time.Now()
		if n, err := c.Write(make([]byte, 5250)); n != 5250 || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
		// A quarter of a second's bytes pass at once.
		if took := time.Since(started).Round(10 * time.Millisecond); took != 5*time.Second {
			t.Errorf("took %s", took)
		}
		_ = c.Close()
		_ = b.Close()
	})
}

func TestCloseEndsTheWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		c := NewConn(a, Rate{NewBucket(1)}, nil)
		go func() { _, _ = b.Write(make([]byte, 10)); _ = b.Close() }()
		time.AfterFunc(5*time.Second, func() { _ = c.Close() })
		started := time.Now()
		if _, err := io.Copy(io.Discard, c); err == nil {
			t.Error("no error")
		}
		if took := time.Since(started); took != 5*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

func TestPeersAreCountedAndShareARate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &Peers{Conns: 2, Rate: 1000}
		leave, ok := p.Enter("d")
		if !ok {
			t.Fatal("refused")
		}
		if _, ok := p.Enter("d"); !ok {
			t.Fatal("refused")
		}
		if _, ok := p.Enter("d"); ok {
			t.Error("a third connection is let in")
		}
		if _, ok := p.Enter("e"); !ok {
			t.Error("another peer is refused")
		}
		started := time.Now()
		done := make(chan struct{})
		for range 2 {
			a, b := net.Pipe()
			c := p.Wrap("d", a)
			go func() { _, _ = io.Copy(io.Discard, b) }()
			go func() { _, _ = c.Write(make([]byte, 1000)); _ = c.Close(); _ = b.Close(); done <- struct{}{} }()
		}
		<-done
		<-done
		if took := time.Since(started).Round(10 * time.Millisecond); took != 1750*time.Millisecond {
			t.Errorf("took %s", took)
		}
		leave()
		leave()
		if _, ok := p.Enter("d"); !ok {
			t.Error("refused though one has left")
		}
	})
}

func TestBytesAreCountedWithoutALimit(t *testing.T) {
	a, b := net.Pipe()
	p := new(Peers)
	c := p.Wrap("d", a)
	go func() { _, _ = b.Write([]byte("abc")) }()
	if n, err := c.Read(make([]byte, 8)); n != 3 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if s := p.Stats(); s.In != 3 || s.Out != 0 {
		t.Errorf("%+v", s)
	}
	_ = c.Close()
	_ = b.Close()
}
