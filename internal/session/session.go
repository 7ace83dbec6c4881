// Package session is inner TLS plus yamux over any net.Conn: the same Session
// on both ends. It knows nothing of HTTP, so it is tested over net.Pipe. The
// packages client and server re-export its types.
package session

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/atls-ws/atls-ws/internal/proto"
)

type (
	// Hello is what the device says of itself.
	Hello = proto.Hello
	// Ready is the server's acceptance.
	Ready = proto.Ready
	// OuterReport is what the device met on the outer hop.
	OuterReport = proto.OuterReport
	// OuterCert is one certificate of an OuterReport's chain.
	OuterCert = proto.OuterCert
)

// Defaults and fixed bounds.
const (
	DefaultStreams   = 256
	DefaultKeepalive = 25 * time.Second
	MissedPings      = 3                // intervals of silence after which the peer is dead
	openTimeout      = 10 * time.Second // for the header of an inbound stream
	byeWait          = time.Second      // for a peer that was told to go
	acceptBacklog    = 32               // equal on both ends, yamux assumes it
)

// Session is an inner TLS connection with streams and signals in it. All
// methods may be called from any goroutine. Its owner closes it.
type Session struct {
	cfg     *Config
	ready   *Ready
	hello   Hello
	inner   *tls.Conn
	carrier net.Conn
	opened  time.Time

	frames *frameConn
	mux    lazyMux
	window uint32          // of a stream
	ctx    context.Context // ends with the session; handlers get it
	cancel context.CancelFunc
	done   chan struct{}

	inbound  atomic.Int32
	nsignal  atomic.Int32 // inbound signal streams
	outbound atomic.Int32 // outbound service streams
	opens    onFirstUse[openings]
	signals  onFirstUse[signalSender]
	paces    onFirstUse[pace] // of the peer's signals

	refused     atomic.Int32  // streams, see logRefusal
	sealedCount atomic.Uint64 // requests outside, see NextSealed

	mu        sync.Mutex
	err       error
	leaving   error // why this end closes, set before the peer is told
	drain     *proto.Drain
	drained   chan struct{} // made when it is first asked for or closed
	keepalive *time.Timer   // calls beat
	beatAt    time.Time     // when
	onDone    []func()
	wg        sync.WaitGroup
}

func newSession(cfg *Config, conn *tls.Conn, below *limitedConn, isClient bool, ready *proto.Ready, hello Hello) *Session {
	ctx, cancel := context.WithCancel(context.Background())
	s := &Session{
		cfg: cfg, ready: ready, hello: hello,
		inner: conn, carrier: below.Conn, opened: time.Now(),
		frames: newFrameConn(conn, below, below.Conn), cancel: cancel,
		done: make(chan struct{}), window: cfg.windowFor(below.rtt),
	}
	s.ctx = context.WithValue(ctx, contextKey{}, s)
	if tcp, ok := below.Conn.(interface{ SetWriteBuffer(int) error }); ok && below.rtt > 0 && below.rtt < nearBy {
		_ = tcp.SetWriteBuffer(nearBuffer)
	}
	s.frames.mayPark = s.mayPark
	s.mux.init(isClient)
	if isClient {
		s.frames.parity = 1
	}
	s.mu.Lock()
	s.keepalive = time.AfterFunc(time.Hour, s.beat)
	s.beatAfterLocked(BeatIn(s.cfg.Keepalive))
	s.mu.Unlock()
	s.rest()
	return s
}

type contextKey struct{}

// FromContext returns the session of a signal handler's or a hosted request's context.
func FromContext(ctx context.Context) (*Session, bool) {
	s, ok := ctx.Value(contextKey{}).(*Session)
	return s, ok
}

// NewContext returns ctx with s in it, for FromContext.
func NewContext(ctx context.Context, s *Session) context.Context {
	return context.WithValue(ctx, contextKey{}, s)
}

// log names the session; a logger that is kept would cost each half a KiB.
func (s *Session) log() *slog.Logger {
	return s.cfg.Logger.With("device", s.Device(), "session", s.ID(), "remote", s.RemoteAddr())
}

// ID names the session in the logs of both ends.
func (s *Session) ID() string { return s.ready.Session }

// Device is the device's id as the server took it from the certificate.
func (s *Session) Device() string { return s.ready.Device }

// Ready is what the server said when it accepted the session.
func (s *Session) Ready() Ready { return *s.ready }

// Hello is what the device said of itself. The caller must not change it.
func (s *Session) Hello() Hello { return s.hello }

// ConnectionState is the inner TLS state.
func (s *Session) ConnectionState() tls.ConnectionState { return s.inner.ConnectionState() }

// RemoteAddr is the carrier's.
func (s *Session) RemoteAddr() net.Addr { return s.carrier.RemoteAddr() }

// Opened is when the session became ready.
func (s *Session) Opened() time.Time { return s.opened }

// Done is closed when the session has ended; Err then says why.
func (s *Session) Done() <-chan struct{} { return s.done }

// OnDone has fn called in a goroutine of its own when the session has ended. It
// costs an idle session less than a goroutine that waits for Done.
func (s *Session) OnDone(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		go fn()
		return
	}
	s.onDone = append(s.onDone, fn)
}

// Err is nil while the session lives.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Drained is closed when the peer has asked this end to reconnect.
func (s *Session) Drained() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.drainedLocked()
}

func (s *Session) drainedLocked() chan struct{} {
	if s.drained == nil {
		s.drained = make(chan struct{})
	}
	return s.drained
}

// ReconnectIn is the time after which the peer that drains wants this end
// back: fixed part plus a random part of the spread.
func (s *Session) ReconnectIn() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.drain == nil {
		return 0
	}
	d := s.drain.After
	if s.drain.Spread > 0 {
		d += rand.N(s.drain.Spread)
	}
	return d
}

// Busy says whether any stream is open, in either direction.
func (s *Session) Busy() bool { return s.mux.streams() > 0 }

// InUse says whether a stream to a service is open, in either direction.
func (s *Session) InUse() bool { return s.outbound.Load()+s.inbound.Load() > s.nsignal.Load() }

// Streams is how many streams the peer has open.
func (s *Session) Streams() int { return int(s.inbound.Load()) }

// Close sends what was written, for at most two seconds, ends all streams and
// waits for the session's goroutines. It must not be called from a signal
// handler. It returns nil; a second Close waits too.
func (s *Session) Close() error {
	s.fail(ErrClosed)
	s.wg.Wait()
	return nil
}

// CloseBye tells the peer why, waits a moment for it to go, and closes. ctx
// bounds the telling and the waiting.
func (s *Session) CloseBye(ctx context.Context, code Code, text string) error {
	s.mu.Lock()
	s.leaving = fmt.Errorf("%w: %s", ErrClosed, text)
	s.mu.Unlock()
	if s.Err() == nil && s.tell(ctx, proto.AppendBye(nil, proto.Answer{Code: code, Text: text})) == nil {
		// Closing now, the end of the connection could overtake the reason.
		timer := time.NewTimer(byeWait)
		defer timer.Stop()
		select {
		case <-s.done:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	return s.Close()
}

// fail ends the session with err, once, and does not wait.
func (s *Session) fail(err error) {
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return
	}
	if s.leaving != nil && (errors.Is(err, ErrPeerGone) || errors.Is(err, ErrClosed)) {
		err = s.leaving
	}
	s.err = err
	if s.keepalive != nil {
		s.keepalive.Stop()
	}
	s.wg.Add(1)
	ended := s.onDone
	s.onDone = nil
	s.mu.Unlock()
	close(s.done)
	s.cancel()
	for _, fn := range ended {
		go fn()
	}
	go func() {
		defer s.wg.Done()
		if !errors.Is(err, ErrClosed) {
			s.frames.abort()
		}
		s.endMux()
	}()
}

// spawn runs fn in a goroutine that Close waits for, unless the session has
// ended, and says whether it does.
func (s *Session) spawn(fn func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return false
	}
	s.wg.Go(fn)
	return true
}

// accept takes the peer's streams until the mux ends.
func (s *Session) accept(mux *yamux.Session) {
	for {
		ys, err := mux.AcceptStream()
		for range acceptBacklog { // a stream that was waiting hides why the mux has ended
			if !errors.Is(err, yamux.ErrSessionShutdown) {
				break
			}
			ys, err = mux.AcceptStream()
		}
		if err != nil {
			if !s.parked(mux) {
				s.fail(muxError(err))
			}
			return
		}
		s.mux.count()
		n := int(s.inbound.Add(1))
		// Over the cap a stream gets a refusal; far over it, a reset.
		most := s.cfg.streams(s.window)
		switch {
		case n > s.cfg.Streams:
			s.cfg.limited(LimitStreams)
		case n > most:
			s.cfg.limited(LimitUnread)
		}
		if n > most+refusals(s.window) || !s.spawn(func() { s.serve(ys, n > most) }) {
			s.reset(ys)
			s.inbound.Add(-1)
		}
	}
}

// muxError turns the reason for which yamux ended into ours.
func muxError(err error) error {
	switch {
	case errors.Is(err, errPings), errors.Is(err, errStreamID), errors.Is(err, yamux.ErrInvalidVersion), errors.Is(err, yamux.ErrInvalidMsgType),
		errors.Is(err, yamux.ErrRecvWindowExceeded), errors.Is(err, yamux.ErrDuplicateStream), errors.Is(err, yamux.ErrUnexpectedFlag):
		return fmt.Errorf("%w: %w", errProtocol, err)
	case errors.Is(err, io.EOF), errors.Is(err, yamux.ErrSessionShutdown):
		return ErrPeerGone
	}
	return fmt.Errorf("%w: %w", ErrPeerGone, err)
}

// BeatIn is when to look after the peer next: a keepalive from now, give or take a
// fifth, so that not all who came at once do it at once.
func BeatIn(keepalive time.Duration) time.Duration {
	return keepalive - keepalive/5 + rand.N(2*keepalive/5+1)
}

// beat pings a silent peer and gives up on one silent for too long. Reads
// count, not writes: bulk data on its way out proves nothing. A session without
// streams is put to rest.
func (s *Session) beat() {
	silent := s.frames.silent()
	dead := MissedPings*s.cfg.Keepalive - silent
	if dead <= 0 {
		s.fail(fmt.Errorf("%w: %s", ErrDead, silent.Round(time.Second)))
		return
	}
	next := min(BeatIn(s.cfg.Keepalive), dead)
	if wait, ping := s.tryRest(); wait > 0 {
		next = min(next, wait)
		if ping != 0 {
			s.frames.ping(ping)
		}
	} else if silent >= s.cfg.Keepalive/2 {
		s.frames.ping(0)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.beatAfterLocked(next)
	}
}

func (s *Session) beatAfterLocked(d time.Duration) {
	s.beatAt = time.Now().Add(d)
	s.keepalive.Reset(d)
}

// yamuxLog passes yamux's own log on at Debug level. The line of a hostile
// peer's every frame would fill a log, so each session passes on 20.
type yamuxLog struct {
	s            *Session
	sent, beyond atomic.Int32
}

func (l *yamuxLog) Printf(format string, v ...any) {
	if strings.Contains(format, "backlog exceeded") { // nothing else tells
		l.s.cfg.limited(LimitStreams)
		if l.beyond.Add(1) <= refusalsLogged {
			l.s.spawn(func() { // yamux holds a lock
				l.s.logRefusal("", proto.Answer{Code: proto.Busy, Text: fmt.Sprintf("more than %d streams at once", acceptBacklog)})
			})
		}
		return
	}
	if l.sent.Add(1) <= 20 {
		l.s.cfg.Logger.Debug("yamux", "text", fmt.Sprintf(format, v...))
	}
}
func (l *yamuxLog) Print(v ...any)   { l.Printf("%s", fmt.Sprint(v...)) }
func (l *yamuxLog) Println(v ...any) { l.Printf("%s", fmt.Sprint(v...)) }
