package outer

import (
	"net"
	"sync"
)

// batchSize holds the records of a carrier message of 64 KiB.
const batchSize = 64<<10 + 1<<10

var batches = sync.Pool{New: func() any { return new([batchSize]byte) }}

// Batch is a TCP connection below TLS, which writes record by record: between
// Cork and Uncork those are gathered into one write. A write of 64 KiB costs the
// kernel half of what four of 16 KiB do.
type Batch struct {
	net.Conn

	mu     sync.Mutex
	corked bool
	buf    []byte
	err    error
	after  func()
	closed bool

	following sync.WaitGroup // what AfterWrite was given
}

// NewBatch makes a Batch of a connection, which it owns.
func NewBatch(c net.Conn) *Batch { return &Batch{Conn: c} }

// SetWriteBuffer is that of a *net.TCPConn, if the connection is one.
func (b *Batch) SetWriteBuffer(n int) error {
	if c, ok := b.Conn.(interface{ SetWriteBuffer(int) error }); ok {
		return c.SetWriteBuffer(n)
	}
	return nil
}

// Cork gathers what is written until Uncork.
func (b *Batch) Cork() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.corked = true
}

// Uncork writes what was gathered. Later writes give its error too.
func (b *Batch) Uncork() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.corked = false
	return b.flushLocked()
}

// AfterWrite has fn called, in a goroutine of its own, after the next write: for
// what is to follow a request that net/http writes. Close waits for it.
func (b *Batch) AfterWrite(fn func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.after = fn
}

func (b *Batch) flushLocked() error {
	if b.buf == nil {
		return b.err
	}
	if b.err == nil {
		_, b.err = b.Conn.Write(b.buf)
	}
	batches.Put((*[batchSize]byte)(b.buf[:batchSize]))
	b.buf = nil
	return b.err
}

func (b *Batch) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return 0, b.err
	}
	if len(b.buf)+len(p) > batchSize {
		if err := b.flushLocked(); err != nil {
			return 0, err
		}
	}
	if !b.corked || len(p) > batchSize {
		n, err := b.Conn.Write(p)
		if b.after != nil && !b.closed {
			b.following.Go(b.after)
			b.after = nil
		}
		return n, err
	}
	if b.buf == nil {
		b.buf = batches.Get().(*[batchSize]byte)[:0]
	}
	b.buf = append(b.buf, p...)
	return len(p), nil
}

// Close ends the connection, and waits for what follows a write.
func (b *Batch) Close() error {
	err := b.Conn.Close()
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.following.Wait()
	return err
}

// BatchListener makes Batches of the connections that l accepts.
type BatchListener struct{ net.Listener }

// Accept waits for a connection.
func (l BatchListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return NewBatch(c), nil
}
