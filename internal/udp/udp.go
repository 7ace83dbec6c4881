// Package udp carries one UDP flow, the datagrams between two addresses, in a
// stream: on the side of the service as Join, on the side of a local port as
// Listener. Neither waits for the stream longer than a datagram may be late.
package udp

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/atls-ws/atls-ws/internal/proto"
)

// Idle is the time after which a flow without datagrams, either way, ends.
const Idle = time.Minute

const (
	queued    = 32               // datagrams of a flow that wait for its stream; more are lost, as UDP loses them
	writeWait = 10 * time.Second // for the stream to take a datagram
)

// Join copies datagrams between a stream and a UDP socket that is connected to
// one address, until either ends or the flow is idle, and closes both. The
// error is nil for an idle flow and for the stream's end.
func Join(stream, socket net.Conn) error {
	f := newFlow()
	f.attach(stream)
	read := make(chan struct{})
	go func() {
		defer close(read)
		buf := make([]byte, proto.MaxDatagram)
		for {
			n, err := socket.Read(buf)
			if refused(err) {
				continue
			}
			if err != nil {
				f.close()
				return
			}
			f.offer(buf[:n])
		}
	}()
	err := f.run(func(d []byte) {
		_, _ = socket.Write(d) // lost, as UDP loses
	})
	_ = socket.Close()
	<-read
	return err
}

// refused says whether a read of a UDP socket reports that an earlier datagram
// was not taken: an ICMP error is news about that datagram, not the flow's end.
func refused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

// flow is one end of a flow's stream.
type flow struct {
	out   chan []byte
	done  chan struct{}
	moved atomic.Int64 // when a datagram last did, Unix ns

	mu     sync.Mutex
	stream net.Conn // nil until attach
	ended  bool
}

func newFlow() *flow {
	f := &flow{out: make(chan []byte, queued), done: make(chan struct{})}
	f.touch()
	return f
}

func (f *flow) touch() { f.moved.Store(time.Now().UnixNano()) }

// offer sends a copy of a datagram, unless too many wait.
func (f *flow) offer(d []byte) {
	framed, err := proto.AppendDatagram(make([]byte, 0, 2+len(d)), d)
	if err != nil {
		return
	}
	select {
	case f.out <- framed:
		f.touch()
	default:
	}
}

// attach gives the flow its stream; false: it has ended, and so has the stream.
func (f *flow) attach(stream net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		_ = stream.Close()
		return false
	}
	f.stream = stream
	return true
}

func (f *flow) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return
	}
	f.ended = true
	close(f.done)
	if f.stream != nil {
		_ = f.stream.Close()
	}
}

// run hands what comes to deliver, until the stream ends or the flow is idle.
// It returns when nothing of the flow still runs.
func (f *flow) run(deliver func([]byte)) error {
	written := make(chan struct{})
	go func() {
		defer close(written)
		defer f.close()
		f.write()
	}()
	buf := make([]byte, proto.MaxDatagram)
	var err error
	for {
		var n int
		if n, err = proto.ReadDatagram(f.stream, buf); err != nil {
			break
		}
		f.touch()
		deliver(buf[:n])
	}
	select {
	case <-f.done:
		err = nil // ended by this end
	default:
		if errors.Is(err, io.EOF) {
			err = nil
		}
	}
	f.close()
	<-written
	return err
}

// write sends what is offered; it ends when the flow is idle.
func (f *flow) write() {
	idle := time.NewTimer(Idle)
	defer idle.Stop()
	for {
		select {
		case d := <-f.out:
			_ = f.stream.SetWriteDeadline(time.Now().Add(writeWait))
			if _, err := f.stream.Write(d); err != nil {
				return // half a datagram may have gone: the stream is of no use
			}
		case <-idle.C:
			left := Idle - time.Since(time.Unix(0, f.moved.Load()))
			if left <= 0 {
				return
			}
			idle.Reset(left)
		case <-f.done:
			return
		}
	}
}
