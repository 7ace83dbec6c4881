package fault

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Proxy passes connections on to a target. The caller closes it.
type Proxy struct {
	listener net.Listener
	target   atomic.Pointer[string]
	next     func(n int) Plan
	frozen   atomic.Bool

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// Listen makes a proxy on a free port of this machine. next gives the plan of
// its nth connection, from 0; it is called from one goroutine.
func Listen(target string, next func(n int) Plan) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{listener: l, next: next}
	p.To(target)
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.wg.Go(p.accept)
	return p, nil
}

// To changes the target of the connections to come: of one that has to know the
// proxy's address before it has its own.
func (p *Proxy) To(target string) { p.target.Store(&target) }

// Freeze has nothing pass any more, on no connection, or all again.
func (p *Proxy) Freeze(frozen bool) { p.frozen.Store(frozen) }

// Addr is where the proxy listens.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Close ends everything and waits for it.
func (p *Proxy) Close() {
	p.cancel()
	_ = p.listener.Close()
	p.wg.Wait()
}

func (p *Proxy) accept() {
	for n := 0; ; n++ {
		c, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		plan := p.next(n)
		p.wg.Go(func() { p.serve(c.(*net.TCPConn), plan) })
	}
}

func (p *Proxy) serve(near *net.TCPConn, plan Plan) {
	defer func() { _ = near.Close() }()
	conn, err := new(net.Dialer).DialContext(p.ctx, "tcp", *p.target.Load())
	if err != nil {
		return
	}
	far := conn.(*net.TCPConn)
	defer func() { _ = far.Close() }()
	both := &pair{near: near, far: far}
	defer context.AfterFunc(p.ctx, both.cut)()
	var wg sync.WaitGroup
	wg.Go(func() { (&pipe{p: p, pair: both, from: near, to: far, faults: plan.Up}).run() })
	wg.Go(func() { (&pipe{p: p, pair: both, from: far, to: near, faults: plan.Down}).run() })
	wg.Wait()
}

// pair is a connection's two halves.
type pair struct{ near, far *net.TCPConn }

func (b *pair) cut() { _, _ = b.near.Close(), b.far.Close() }

func (b *pair) reset() {
	_, _ = b.near.SetLinger(0), b.far.SetLinger(0)
	b.cut()
}

// pipe is one direction.
type pipe struct {
	p        *Proxy
	pair     *pair
	from, to *net.TCPConn
	faults   []Fault

	at       int64 // of the next byte
	rate     int
	split    int
	merge    int
	mergeFor time.Duration
	held     []byte
}

const readSize = 16 << 10

func (d *pipe) run() {
	buf := make([]byte, readSize)
	for {
		if len(d.held) > 0 {
			_ = d.from.SetReadDeadline(time.Now().Add(d.mergeFor))
		}
		n, err := d.from.Read(buf)
		_ = d.from.SetReadDeadline(time.Time{})
		for d.p.frozen.Load() {
			if !d.sleep(5 * time.Millisecond) {
				return
			}
		}
		if !d.pass(buf[:n]) {
			return
		}
		if timeout, ok := err.(net.Error); ok && timeout.Timeout() && len(d.held) > 0 { //nolint:errorlint // as net gives it
			if !d.release() {
				return
			}
			continue
		}
		if err != nil {
			ok := d.release()
			if err == io.EOF && ok { //nolint:errorlint // as net gives it
				_ = d.to.CloseWrite()
				return
			}
			d.pair.cut()
			return
		}
	}
}

// pass lets bytes through, up to each fault; false: the connection is over.
func (d *pipe) pass(b []byte) bool {
	for len(b) > 0 {
		if len(d.faults) == 0 || d.faults[0].At >= d.at+int64(len(b)) {
			return d.write(b)
		}
		f := d.faults[0]
		d.faults = d.faults[1:]
		if before := f.At - d.at; before > 0 {
			if !d.write(b[:before]) {
				return false
			}
			b = b[before:]
		}
		switch f.Kind {
		case Delay, Stall:
			if !d.release() || !d.sleep(f.For) {
				return false
			}
		case Rate:
			d.rate = f.N
		case Split:
			d.split = f.N
		case Merge:
			d.merge, d.mergeFor = f.N, f.For
		case Flip:
			b[0] ^= 1 << (f.At % 8)
		case Truncate:
			n := min(f.N, len(b))
			d.release()
			_ = d.send(b[n:])
			d.pair.cut()
			return false
		case Cut:
			d.release()
			d.pair.cut()
			return false
		case Reset:
			d.pair.reset()
			return false
		}
	}
	return true
}

func (d *pipe) write(b []byte) bool {
	d.at += int64(len(b))
	if d.merge > 0 {
		d.held = append(d.held, b...)
		if len(d.held) < d.merge {
			return true
		}
		return d.release()
	}
	return d.send(b)
}

// release sends what was held back.
func (d *pipe) release() bool {
	held := d.held
	d.held = nil
	return d.send(held)
}

func (d *pipe) send(b []byte) bool {
	for len(b) > 0 {
		n := len(b)
		if d.split > 0 {
			n = min(n, d.split)
		}
		if _, err := d.to.Write(b[:n]); err != nil {
			d.pair.cut()
			return false
		}
		b = b[n:]
		if d.rate > 0 && !d.sleep(time.Duration(n)*time.Second/time.Duration(d.rate)) {
			return false
		}
	}
	return true
}

func (d *pipe) sleep(t time.Duration) bool {
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-d.p.ctx.Done():
		return false
	}
}
