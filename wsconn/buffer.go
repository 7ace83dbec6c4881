package wsconn

import "sync"

// bufferSize holds the largest message that is sent, and room for its header.
const bufferSize = maxHead + MaxMessage

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// getBuffer returns a buffer of bufferSize bytes.
func getBuffer() []byte { return buffers.Get().(*[bufferSize]byte)[:] }

// putBuffer takes back what getBuffer gave.
func putBuffer(b []byte) { buffers.Put((*[bufferSize]byte)(b[:bufferSize])) }
