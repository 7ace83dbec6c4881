package daemon

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/server"
)

const keptFailures = 256

// streams are the connections of operators to services of devices.
type streams struct {
	wg sync.WaitGroup

	keepalive time.Duration // of those in frames

	mu     sync.Mutex
	last   uint64
	open   map[uint64]net.Conn // operators' ends
	closed bool
	failed map[uint64]string // why, of the latest keptFailures
	order  []uint64
}

func (a *api) dial(w http.ResponseWriter, r *http.Request) {
	if upgrade := r.Header.Get("Upgrade"); !strings.EqualFold(upgrade, admin.Protocol) && !strings.EqualFold(upgrade, admin.FramesProtocol) {
		w.Header().Set("Upgrade", admin.FramesProtocol+", "+admin.Protocol)
		fail(w, http.StatusUpgradeRequired, "want the header Upgrade: "+admin.FramesProtocol+", or "+admin.Protocol)
		return
	}
	var wait time.Duration
	if text := r.URL.Query().Get("wait"); text != "" {
		var err error
		if wait, err = time.ParseDuration(text); err != nil || wait < 0 || wait > admin.MaxTimeout {
			fail(w, http.StatusBadRequest, "wait: want a duration up to "+admin.MaxTimeout.String()+", such as 30s")
			return
		}
	}
	stream, err := a.reach.dial(r.Context(), r.PathValue("id"), r.PathValue("service"), wait)
	if err != nil {
		replyError(w, err)
		return
	}
	a.hand(w, r, stream, a.log.With("device", r.PathValue("id"), "service", r.PathValue("service")))
}

// hand answers a request for a service with the connection to it.
func (s *streams) hand(w http.ResponseWriter, r *http.Request, stream *reached, log *slog.Logger) {
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		stream.Reset()
		_ = stream.Close()
		fail(w, http.StatusInternalServerError, err.Error())
		return
	}
	framed := !strings.EqualFold(r.Header.Get("Upgrade"), admin.Protocol)
	id, ok := s.begin(conn)
	if !ok { // the daemon ends
		stream.Reset()
		_ = stream.Close()
		_ = conn.Close()
		return
	}
	s.wg.Go(func() {
		defer s.end(id)
		var more string
		protocol := admin.Protocol
		if framed {
			protocol, more = admin.FramesProtocol, fmt.Sprintf("%s: %s\r\n", admin.KeepaliveHeader, s.keepalive)
		}
		_, _ = fmt.Fprintf(buf, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n%s: %d\r\n%s\r\n",
			protocol, admin.StreamHeader, id, more)
		_ = buf.Flush() // an error shows in what follows
		var operator net.Conn = &hijacked{Conn: conn, ahead: buf}
		if framed {
			operator = admin.NewFrames(conn, buf.Reader, s.keepalive)
		}
		stream.failed = func(err error) { s.fail(id, err) }
		if err := server.Splice(operator, stream); err != nil {
			log.Debug("operator's connection broke", "err", err)
		}
	})
}

// stream tells an operator whose socket has ended whether that was the end.
func (s *streams) stream(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseUint(r.PathValue("stream"), 10, 64)
	if err != nil {
		fail(w, http.StatusBadRequest, "want the number of a stream")
		return
	}
	s.mu.Lock()
	text, failed := s.failed[id]
	s.mu.Unlock()
	if failed {
		reply(w, http.StatusOK, admin.Outcome{State: admin.Failed, Text: text})
		return
	}
	reply(w, http.StatusOK, admin.Outcome{State: admin.Ended})
}

func (s *streams) begin(conn net.Conn) (id uint64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, false
	}
	if s.open == nil {
		s.open = map[uint64]net.Conn{}
	}
	s.last++
	s.open[s.last] = conn
	return s.last, true
}

func (s *streams) end(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, id)
}

// fail notes the first error of a stream.
func (s *streams) fail(id uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		s.failed = map[uint64]string{}
	}
	if _, ok := s.failed[id]; ok {
		return
	}
	s.failed[id] = err.Error()
	s.order = append(s.order, id)
	if len(s.order) > keptFailures {
		delete(s.failed, s.order[0])
		s.order = s.order[1:]
	}
}

// close cuts the connections and waits for them: the device of one may be at
// another node, which goes on.
func (s *streams) close() {
	s.mu.Lock()
	s.closed = true
	for _, conn := range s.open {
		_ = conn.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// hijacked is an operator's connection with what net/http has read ahead.
type hijacked struct {
	net.Conn
	ahead io.Reader
}

func (h *hijacked) Read(p []byte) (int, error) { return h.ahead.Read(p) }

// CloseWrite is that of a unix socket or of a TLS connection.
func (h *hijacked) CloseWrite() error { return h.Conn.(interface{ CloseWrite() error }).CloseWrite() }
