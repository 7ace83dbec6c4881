package wsconn

import "sync"

// bufferSize holds a message of MaxMessage bytes, its header and some control
// frames.
const bufferSize = MaxMessage + 1<<10

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// getBuffer returns an empty slice of capacity bufferSize.
func getBuffer() []byte { return buffers.Get().(*[bufferSize]byte)[:0] }

// putBuffer takes back what getBuffer gave, unless append has moved it.
func putBuffer(b []byte) {
	if cap(b) == bufferSize {
		buffers.Put((*[bufferSize]byte)(b[:bufferSize]))
	}
}
