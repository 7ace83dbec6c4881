package session

import (
	"errors"
	"io"
	"net"
)

// reset makes the coming Close of a stream a failure, as the other side's was.
func reset(c net.Conn) {
	if st, ok := c.(interface{ Reset() }); ok {
		st.Reset()
	}
}

// Splice copies between a and b, both ways, until both have ended, and closes
// both. An end of one direction is passed on as a half-close when the other
// side has one, else it ends both. It returns the first real error, nil for an
// orderly end.
func Splice(a, b net.Conn) error {
	errs := make(chan error, 2)
	half := func(dst, src net.Conn) {
		_, err := io.Copy(dst, src)
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
