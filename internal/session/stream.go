package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/atls-ws/atls-ws/internal/proto"
)

const (
	writeChunk   = 32 << 10 // what one write may keep in yamux's buffers
	closeWait    = 2 * time.Second
	discardAfter = 10 * time.Second // what still comes for a closed stream is dropped for so long, then it is reset
)

// Stream is a connection to a service: a net.Conn with half-close. Its owner
// closes it; it ends with its session too, and its reads then give the
// session's Err.
type Stream struct {
	ys      *yamux.Stream
	session *Session
	service string
	free    func() // gives the slot back

	rd     sync.Mutex // one reader at a time
	eof    bool       // under rd
	dl     sync.Mutex // held to set a deadline and to set closed: the one that Close sets stays
	closed atomic.Bool
	wdl    atomic.Int64 // write deadline, Unix ns, 0 none: yamux looks at its own only when the window is full
}

// Session returns the session that the stream is part of.
func (st *Stream) Session() *Session { return st.session }

// Service names what the stream is connected to.
func (st *Stream) Service() string { return st.service }

// LocalAddr is the service's name.
func (st *Stream) LocalAddr() net.Addr { return serviceAddr(st.service) }

// RemoteAddr is the carrier's.
func (st *Stream) RemoteAddr() net.Addr { return st.session.RemoteAddr() }

// SetDeadline sets both deadlines.
func (st *Stream) SetDeadline(t time.Time) error {
	return errors.Join(st.SetReadDeadline(t), st.SetWriteDeadline(t))
}

// SetReadDeadline bounds reads; a read that times out loses nothing.
func (st *Stream) SetReadDeadline(t time.Time) error {
	st.dl.Lock()
	defer st.dl.Unlock()
	if st.closed.Load() {
		return net.ErrClosed
	}
	return st.ys.SetReadDeadline(t)
}

// SetWriteDeadline bounds writes; one that times out says how much was taken.
func (st *Stream) SetWriteDeadline(t time.Time) error {
	st.dl.Lock()
	defer st.dl.Unlock()
	if st.closed.Load() {
		return net.ErrClosed
	}
	var ns int64
	if !t.IsZero() {
		ns = max(t.UnixNano(), 1)
	}
	st.wdl.Store(ns)
	return st.ys.SetWriteDeadline(t)
}

func (st *Stream) Read(p []byte) (int, error) {
	st.rd.Lock()
	defer st.rd.Unlock()
	if st.closed.Load() {
		return 0, net.ErrClosed
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := st.ys.Read(p)
	if err == nil {
		return n, nil
	}
	if errors.Is(err, io.EOF) && !st.eof {
		if st.session.mux.cut(st.ys.Session()) {
			<-st.session.done          // accept is about to say why
			return n, st.session.Err() // cut off, not ended
		}
		st.eof = true
	}
	return n, st.wrap(err)
}

func (st *Stream) Write(p []byte) (n int, err error) {
	for first := true; first || n < len(p); first = false {
		if st.closed.Load() {
			return n, net.ErrClosed
		}
		if d := st.wdl.Load(); d != 0 && time.Now().UnixNano() >= d {
			return n, os.ErrDeadlineExceeded
		}
		m, err := st.ys.Write(p[n:min(n+writeChunk, len(p))])
		n += m
		if err != nil {
			return n, st.wrap(err)
		}
	}
	return n, nil
}

// wrap turns yamux's errors into those of net.Conns and of the session.
func (st *Stream) wrap(err error) error {
	switch {
	case errors.Is(err, io.EOF):
		return io.EOF
	case st.closed.Load():
		return net.ErrClosed
	case errors.Is(err, yamux.ErrTimeout):
		return os.ErrDeadlineExceeded
	case errors.Is(err, yamux.ErrStreamClosed):
		return io.ErrClosedPipe
	case errors.Is(err, yamux.ErrConnectionWriteTimeout):
		// The peer's end of this stream would wait for ever: end them all.
		st.session.fail(fmt.Errorf("%w: %w", ErrDead, err))
	}
	if serr := st.session.Err(); serr != nil {
		return serr
	}
	if errors.Is(err, yamux.ErrConnectionReset) {
		return fmt.Errorf("stream %s: %w", st.service, err)
	}
	return err
}

// CloseWrite ends what this end sends; reads go on.
func (st *Stream) CloseWrite() error {
	if st.closed.Load() {
		return net.ErrClosed
	}
	return st.ys.Close()
}

// Close ends the stream. What was written is still delivered. It waits for at
// most two seconds. What the peer still sends is discarded for ten seconds;
// then the stream is reset.
func (st *Stream) Close() error {
	if !st.shut() {
		return nil
	}
	sent := make(chan struct{})
	if !st.session.spawn(func() { st.finish(sent) }) {
		_ = st.ys.Close()
		st.free()
		return nil
	}
	bound := time.NewTimer(closeWait)
	defer bound.Stop()
	select {
	case <-sent:
	case <-bound.C:
	}
	return nil
}

// shut makes the stream closed for its users and wakes the reader and the
// writer. It is true once.
func (st *Stream) shut() bool {
	st.dl.Lock()
	defer st.dl.Unlock()
	if st.closed.Swap(true) {
		return false
	}
	_ = st.ys.SetDeadline(time.Unix(1, 0))
	return true
}

// Reset ends the stream as a failure: the peer's reads and writes give an
// error, not an end. What was written and not yet read is lost.
func (st *Stream) Reset() {
	if !st.shut() {
		return
	}
	st.session.reset(st.ys)
	st.free()
}

// finish sends the end and waits for the peer's.
func (st *Stream) finish(sent chan<- struct{}) {
	defer st.free()
	_ = st.ys.Close()
	close(sent)
	st.rd.Lock()
	defer st.rd.Unlock()
	if st.eof {
		return
	}
	_ = st.ys.SetReadDeadline(time.Now().Add(discardAfter))
	if _, err := io.Copy(io.Discard, st.ys); errors.Is(err, yamux.ErrTimeout) {
		st.session.reset(st.ys)
	}
}

// openings are the slots of Dials that wait for yamux's ACK.
type openings struct{ slots chan struct{} }

func newOpenings() *openings { return &openings{make(chan struct{}, acceptBacklog-4)} }

// Dial connects to a service of the other end. The caller owns the connection,
// a *Stream. ctx bounds the dialing, not the connection. A no of the other end
// is a *RefusedError.
func (s *Session) Dial(ctx context.Context, service string) (net.Conn, error) {
	st, err := s.dial(ctx, service)
	if err != nil {
		return nil, fmt.Errorf("dial service %s: %w", service, err)
	}
	return st, nil
}

func (s *Session) dial(ctx context.Context, service string) (*Stream, error) {
	if err := proto.CheckName(service); err != nil {
		return nil, err
	}
	slots := s.opens.get(newOpenings).slots
	select {
	case slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.done:
		return nil, s.Err()
	}
	type opened struct {
		st  *Stream
		err error
	}
	result := make(chan opened)
	if !s.spawn(func() {
		defer func() { <-slots }()
		st, err := s.open(ctx, service)
		select {
		case result <- opened{st, err}:
		case <-ctx.Done(): // nobody waits any more
			if err == nil {
				st.Reset() // the service may have it: this is no empty stream
			}
		}
	}) {
		<-slots
		return nil, s.Err()
	}
	select {
	case r := <-result:
		return r.st, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// open opens a stream and waits for the answer.
func (s *Session) open(ctx context.Context, service string) (*Stream, error) {
	ys, err := s.openStream()
	if err != nil {
		if serr := s.Err(); serr != nil {
			return nil, serr
		}
		if errors.Is(err, yamux.ErrRemoteGoAway) {
			return nil, ErrDraining
		}
		return nil, err
	}
	st := &Stream{ys: ys, session: s, service: service, free: s.restSoon}
	if service != proto.ServiceSignals {
		s.outbound.Add(1)
		st.free = func() { s.outbound.Add(-1); s.restSoon() }
	}
	stop := context.AfterFunc(ctx, func() { _ = ys.SetDeadline(time.Unix(1, 0)) })
	err = proto.WriteOpen(st, service)
	var answer proto.Answer
	if err == nil {
		answer, err = proto.ReadAnswer(st)
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err == nil && answer.Code != proto.OK {
		_ = st.Close()
		return nil, &RefusedError{Code: answer.Code, Text: answer.Text}
	}
	if err != nil {
		st.Reset() // the service may have it: this is no empty stream
		return nil, err
	}
	return st, nil
}

// serve answers a stream that the peer opened.
func (s *Session) serve(ys *yamux.Stream, overCap bool) {
	st := &Stream{ys: ys, session: s, free: func() { s.inbound.Add(-1); s.restSoon() }}
	_ = st.SetDeadline(time.Now().Add(openTimeout))
	service, err := proto.ReadOpen(st)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("no header within %s", openTimeout)
	}
	if err != nil {
		s.refuseStream(st, proto.Answer{Code: proto.Malformed, Text: err.Error()})
		return
	}
	st.service = service
	if overCap {
		s.refuseStream(st, proto.Answer{Code: proto.Busy, Text: fmt.Sprintf("%d streams are open", s.cfg.streams(s.window))})
		return
	}
	if service == proto.ServiceSignals {
		s.serveSignals(st)
		return
	}
	if s.cfg.Authorize != nil {
		if err := s.cfg.Authorize(s.ctx, s.Device(), service); err != nil {
			s.refuseStream(st, notAllowed(err))
			return
		}
	}
	l := s.cfg.Mux.listener(service)
	if l == nil {
		s.refuseStream(st, proto.Answer{Code: proto.NotFound, Text: "no service " + service})
		return
	}
	if err := l.reserve(s.Device()); errors.Is(err, net.ErrClosed) {
		s.refuseStream(st, proto.Answer{Code: proto.NotFound, Text: "no service " + service})
		return
	} else if err != nil {
		s.cfg.limited(LimitWaiting)
		s.refuseStream(st, proto.Answer{Code: proto.Busy, Text: "service " + service + ": " + err.Error()})
		return
	}
	if err := proto.WriteAnswer(st, proto.Answer{}); err != nil {
		l.free(s.Device())
		_ = st.Close()
		return
	}
	_ = st.SetDeadline(time.Time{})
	if err := l.put(s.Device(), st); err != nil { // closed just now
		st.Reset()
	}
}

// notAllowed is the refusal for an error of Config.Authorize.
func notAllowed(err error) proto.Answer {
	if r := (*RefusedError)(nil); errors.As(err, &r) {
		return proto.Answer{Code: r.Code, Text: r.Text}
	}
	return proto.Answer{Code: proto.NotAllowed, Text: err.Error()}
}

func (s *Session) refuseStream(st *Stream, a proto.Answer) {
	s.logRefusal(st.service, a)
	_ = st.SetWriteDeadline(time.Now().Add(openTimeout)) // what is refused may be a header that was late
	_ = proto.WriteAnswer(st, a)
	_ = st.Close()
}

// refusalsLogged is how many refused streams of a session are logged at Info: a
// peer can make any number of them.
const refusalsLogged = 20

func (s *Session) logRefusal(service string, a proto.Answer) {
	level := slog.LevelInfo
	n := s.refused.Add(1)
	if n > refusalsLogged {
		level = slog.LevelDebug
	}
	attrs := []any{"service", service, "code", a.Code.String(), "text", a.Text}
	if n == refusalsLogged {
		attrs = append(attrs, "further", "at level debug")
	}
	s.log().Log(context.Background(), level, "stream refused", attrs...)
}
