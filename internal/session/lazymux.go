package session

import (
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

// restAfter is how long a session is without streams before its mux goes, half
// of it before and half after a ping that proves that nothing is under way.
const restAfter = 10 * time.Second

// lazyMux is a session's yamux, which exists while there are streams and a
// little longer. yamux has no handshake, so an end makes its own when it opens
// a stream or something arrives that is no ping. Without it an idle session
// costs the server no goroutine of its own and 25 KiB less.
//
// It goes only when it has no streams and the peer has answered a ping sent
// after the last stream ended, so that the peer has seen all of it. What the
// peer sent before it saw is sorted out by streamIDs.
type lazyMux struct {
	isClient bool

	mu      sync.Mutex
	cond    sync.Cond
	cur     *yamux.Session // nil: the session is at rest
	opening int            // calls that open a stream of cur
	opened  uint32         // streams, ever, ours and the peer's
	last    uint32         // the highest id that cur has given a stream of ours
	parking bool           // cur's reader is asked to end
	parked  bool           // and has: cur takes nothing more
	polling bool           // rest is reading
	wanted  int            // calls that wait for parking and polling to end
	ended   bool           // the session has: no yamux is made any more

	pings    uint32 // that were sent as barriers
	barrier  uint32 // the ping that is to be answered, 0 none
	atOpened uint32 // opened, when it was sent
}

func (m *lazyMux) init(isClient bool) {
	m.isClient = isClient
	m.cond.L = &m.mu
}

// count counts a stream of the peer's.
func (m *lazyMux) count() {
	m.mu.Lock()
	m.opened++
	m.mu.Unlock()
}

// streams is how many there are.
func (m *lazyMux) streams() int {
	m.mu.Lock()
	cur := m.cur
	m.mu.Unlock()
	if cur == nil {
		return 0
	}
	return cur.NumStreams()
}

// cut says whether a mux has ended with streams in it. One that went to rest had
// none, but what came before may be read from those that it had.
func (m *lazyMux) cut(mux *yamux.Session) bool {
	if !mux.IsClosed() {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cur == mux && !m.parked
}

// muxEnd is the connection of one yamux, which does not own the session's.
type muxEnd struct {
	*frameConn
	s *Session
}

// Close is yamux's: when the session has ended it ends the connection, which
// ends yamux's reading. When the session goes to rest, that has ended already.
func (e muxEnd) Close() error {
	m := &e.s.mux
	m.mu.Lock()
	rest := m.parked && !m.ended
	m.mu.Unlock()
	if rest {
		return nil
	}
	return e.frameConn.Close()
}

func (s *Session) yamuxConfig() *yamux.Config {
	return &yamux.Config{
		AcceptBacklog:     acceptBacklog,
		KeepAliveInterval: time.Hour, // not enabled; must not be 0
		// yamux's write timeout leaves the session up and the peer's Read hung
		// (GHSA-29qp-crvh-w22m), and fires on a slow link that works. Liveness is
		// ours: beat.
		ConnectionWriteTimeout: 24 * time.Hour,
		MaxStreamWindowSize:    s.window,
		// Both of these close more than they should: a session for one slow stream,
		// a half-closed stream that is still in use. Dial and Stream.Close bound it.
		StreamOpenTimeout:  0,
		StreamCloseTimeout: 0,
		Logger:             &yamuxLog{s: s},
	}
}

// startLocked makes a yamux, which from now on is who reads.
func (s *Session) startLocked() (*yamux.Session, error) {
	m := &s.mux
	if m.ended {
		return nil, s.Err()
	}
	open := yamux.Server
	if m.isClient {
		open = yamux.Client
	}
	s.frames.below.poll = false
	s.frames.stay(true)
	mux, err := open(muxEnd{s.frames, s}, s.yamuxConfig())
	if err != nil {
		panic(err) // the configuration is constant
	}
	m.cur, m.barrier = mux, 0
	if !s.spawn(func() { s.accept(mux) }) {
		return nil, s.Err() // the session is ending, and endMux about to close mux
	}
	return mux, nil
}

// openStream opens a stream, in a new yamux when the session is at rest.
func (s *Session) openStream() (*yamux.Stream, error) {
	if s.frames.away.Load() {
		return nil, yamux.ErrRemoteGoAway
	}
	m := &s.mux
	m.mu.Lock()
	for (m.parking || m.polling) && !m.ended {
		m.wanted++
		m.cond.Wait() // not for long: the reader was woken
		m.wanted--
	}
	mux := m.cur
	if mux == nil {
		var err error
		if mux, err = s.startLocked(); err != nil {
			m.mu.Unlock()
			return nil, err
		}
	}
	m.opening++
	m.opened++
	m.mu.Unlock()
	ys, err := mux.OpenStream()
	m.mu.Lock()
	m.opening--
	if err == nil {
		m.last = max(m.last, ys.StreamID())
	}
	m.mu.Unlock()
	return ys, err
}

// rest waits for the peer without a goroutine and without a buffer: the
// carrier calls it again when something has arrived. Pings are answered; what
// else comes starts a yamux. It does not hold the lock while it reads: TLS may
// have to answer, to a peer that takes nothing.
func (s *Session) rest() {
	m := &s.mux
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cur != nil || m.polling || m.ended {
		return // a call from before, and somebody reads
	}
	below := s.frames.below
	if below.arrive == nil { // a carrier that only a goroutine can wait for: yamux's will do
		_, _ = s.startLocked()
		return
	}
	below.poll, m.polling = true, true
	defer func() {
		m.polling = false
		m.cond.Broadcast()
	}()
	buf := flushBuffers.Get().(*[flushBuffer]byte)
	defer flushBuffers.Put(buf)
	for m.wanted == 0 && !m.ended { // who wants a yamux starts it
		m.mu.Unlock()
		n, err := s.frames.receive(buf[:])
		m.mu.Lock()
		switch {
		case n > 0:
			s.frames.rx.rest = append(s.frames.rx.rest, buf[:n]...)
			_, _ = s.startLocked()
			return
		case errors.Is(err, errNothingYet):
			if below.arrive.NotifyArrival(s.rest) {
				return
			}
		case err != nil:
			s.fail(muxError(err))
			return
		}
	}
}

// tryRest takes a step towards rest when there are no streams. It says when to
// take the next one, and with which ping the peer is to be asked before.
func (s *Session) tryRest() (again time.Duration, ping uint32) {
	m := &s.mux
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cur == nil || m.parking || m.ended || s.frames.below.arrive == nil || s.frames.before.Load() > 1<<30 {
		return 0, 0
	}
	if m.busyLocked() {
		m.barrier = 0
		return 0, 0
	}
	if m.barrier != 0 && m.atOpened == m.opened && s.frames.ponged.Load() == m.barrier {
		m.parking = true
		_ = s.carrier.SetReadDeadline(time.Unix(1, 0)) // wakes the reader, who asks mayPark
		return 0, 0
	}
	m.pings++
	m.barrier, m.atOpened = m.pings, m.opened
	return restAfter / 2, m.barrier
}

func (m *lazyMux) busyLocked() bool { return m.opening > 0 || m.cur.NumStreams() > 0 }

// mayPark is asked by yamux's reader when its wait was broken off, and whether
// that was between two frames. While something waits to be sent, more may wait in
// yamux, such as the reset of a stream that it did not take.
func (s *Session) mayPark(between bool) bool {
	m := &s.mux
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.parking || m.ended {
		return false
	}
	if !between || m.busyLocked() || !s.frames.quiet() {
		m.parking = false
		m.cond.Broadcast()
		return false
	}
	m.parked = true
	return true
}

// parked says whether mux has ended for the session to rest, and lets it.
func (s *Session) parked(mux *yamux.Session) bool {
	m := &s.mux
	m.mu.Lock()
	parked := m.parked
	m.mu.Unlock()
	if !parked {
		return false
	}
	_ = mux.Close() // waits for its goroutines
	m.mu.Lock()
	m.cur, m.parking, m.parked = nil, false, false
	s.frames.next(m.last)
	m.last = 0
	s.frames.rx.forget()
	s.frames.stay(false)
	m.cond.Broadcast()
	m.mu.Unlock()
	s.rest()
	return true
}

// reset ends a stream at both ends, if it is not one of a yamux that has gone.
func (s *Session) reset(ys *yamux.Stream) {
	m := &s.mux
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cur == ys.Session() {
		s.frames.reset(ys.StreamID())
	}
}

// endMux closes the connection, and yamux if there is one.
func (s *Session) endMux() {
	m := &s.mux
	m.mu.Lock()
	m.ended = true
	mux := m.cur
	m.cond.Broadcast()
	m.mu.Unlock()
	_ = s.frames.Close() // first: yamux's reader may be waiting for the lock that its Close holds
	if mux != nil {
		_ = mux.Close()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.polling {
		m.cond.Wait() // not for long: what it reads from is closed
	}
}

// restSoon lets a session rest a while after its last stream.
func (s *Session) restSoon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil && time.Until(s.beatAt) > restAfter/2 {
		s.beatAfterLocked(restAfter / 2)
	}
}
