package postconn

import "sync"

const chunkSize = 16 << 10

// chunks hold what windows hold, bodies what one request or answer carries.
var (
	chunks = sync.Pool{New: func() any { return new([chunkSize]byte) }}
	bodies = sync.Pool{New: func() any { return new([MaxBody + 1]byte) }} // one more tells a body that is too large
)

// window is a part of a stream: the bytes from base to end. It keeps no memory
// while it is empty. The zero value begins the stream.
type window struct {
	base   uint64
	first  int // where base is in chunks[0]
	n      int
	chunks []*[chunkSize]byte
}

func (w *window) end() uint64 { return w.base + uint64(w.n) }

// append adds bytes at the end. Its caller bounds the window.
func (w *window) append(p []byte) {
	for len(p) > 0 {
		at := w.first + w.n
		if at == len(w.chunks)*chunkSize {
			w.chunks = append(w.chunks, chunks.Get().(*[chunkSize]byte))
		}
		k := copy(w.chunks[at/chunkSize][at%chunkSize:], p)
		w.n += k
		p = p[k:]
	}
}

// copyAt copies bytes from off on, which is in the window or at its end.
func (w *window) copyAt(p []byte, off uint64) (n int) {
	skip := int(off - w.base)
	p = p[:min(len(p), w.n-skip)]
	for at := w.first + skip; n < len(p); {
		k := copy(p[n:], w.chunks[at/chunkSize][at%chunkSize:])
		n, at = n+k, at+k
	}
	return n
}

// discard forgets the bytes before to, which is in the window or at its end.
func (w *window) discard(to uint64) {
	k := int(to - w.base)
	w.base, w.first, w.n = to, w.first+k, w.n-k
	for len(w.chunks) > 0 && (w.first >= chunkSize || w.n == 0) {
		chunks.Put(w.chunks[0])
		w.chunks[0] = nil
		w.chunks = w.chunks[1:]
		w.first = max(w.first-chunkSize, 0)
	}
	if w.n == 0 {
		w.first, w.chunks = 0, nil
	}
}

// take moves the first bytes to p.
func (w *window) take(p []byte) int {
	n := w.copyAt(p, w.base)
	w.discard(w.base + uint64(n))
	return n
}

// truncate forgets all bytes, as if those after base had never been.
func (w *window) truncate() {
	base := w.base
	w.discard(w.end())
	w.base = base
}
