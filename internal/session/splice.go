package session

import (
	"errors"
	"io"
	"net"
	"sync"
)

// A connection that waits for data holds the small buffer, one that moves a lot
// the large one: each read and write then costs the kernel a quarter.
const (
	carrySmall = 16 << 10
	carryLarge = 128 << 10
)

var carryBuffers = sync.Pool{New: func() any { return new([carryLarge]byte) }}

// carry copies until src ends.
func carry(dst io.Writer, src io.Reader) error {
	small := make([]byte, carrySmall)
	var large *[carryLarge]byte
	defer func() {
		if large != nil {
			carryBuffers.Put(large)
		}
	}()
	for {
		p := small
		if large != nil {
			p = large[:]
		}
		n, err := src.Read(p)
		if n > 0 {
			if _, werr := dst.Write(p[:n]); werr != nil {
				return werr
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case large == nil && n == len(small):
			large = carryBuffers.Get().(*[carryLarge]byte)
		case large != nil && n < len(small):
			carryBuffers.Put(large)
			large = nil
		}
	}
}

// reset makes the coming Close of a connection a failure, as the other side's was.
func reset(c net.Conn) {
	switch c := c.(type) {
	case interface{ Reset() }: // a *Stream, or what wraps one
		c.Reset()
	case interface{ SetLinger(int) error }: // TCP sends RST instead of FIN
		_ = c.SetLinger(0)
	}
}

// Splice copies between a and b, both ways, until both have ended, and closes
// both. An end of one direction is passed on as a half-close when the other
// side has one, else it ends both. It returns the first real error, nil for an
// orderly end.
func Splice(a, b net.Conn) error {
	errs := make(chan error, 2)
	half := func(dst, src net.Conn) {
		err := carry(dst, src)
		if err == nil {
			if w, ok := dst.(interface{ CloseWrite() error }); ok {
				_ = w.CloseWrite() // an error shows in the other direction
				errs <- nil
				return
			}
		}
		if err != nil {
			reset(a)
			reset(b)
		}
		_ = a.Close()
		_ = b.Close()
		errs <- err
	}
	go half(a, b)
	go half(b, a)
	var first error
	for range 2 {
		if err := <-errs; err != nil && first == nil && !errors.Is(err, net.ErrClosed) {
			first = err
		}
	}
	_ = a.Close()
	_ = b.Close()
	return first
}
