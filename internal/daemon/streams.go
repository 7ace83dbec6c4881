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

	mu     sync.Mutex
	last   uint64
	failed map[uint64]string // why, of the latest keptFailures
	order  []uint64
}

func (a *api) dial(w http.ResponseWriter, r *http.Request) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), admin.Protocol) {
		w.Header().Set("Upgrade", admin.Protocol)
		fail(w, http.StatusUpgradeRequired, "want the header Upgrade: "+admin.Protocol)
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
	a.hand(w, stream, a.log.With("device", r.PathValue("id"), "service", r.PathValue("service")))
}

// hand answers a request for a service with the connection to it.
func (s *streams) hand(w http.ResponseWriter, stream *reached, log *slog.Logger) {
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = stream.Close()
		fail(w, http.StatusInternalServerError, err.Error())
		return
	}
	id := s.begin()
	s.wg.Go(func() {
		_, _ = fmt.Fprintf(buf, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n%s: %d\r\n\r\n",
			admin.Protocol, admin.StreamHeader, id)
		_ = buf.Flush() // an error shows in what follows
		stream.failed = func(err error) { s.fail(id, err) }
		if err := server.Splice(&hijacked{Conn: conn, ahead: buf}, stream); err != nil {
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

func (s *streams) begin() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	return s.last
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

// wait waits for the connections, which end with the devices' sessions.
func (s *streams) wait() { s.wg.Wait() }

// hijacked is an operator's connection with what net/http has read ahead.
type hijacked struct {
	net.Conn
	ahead io.Reader
}

func (h *hijacked) Read(p []byte) (int, error) { return h.ahead.Read(p) }

// CloseWrite is that of a unix socket or of a TLS connection.
func (h *hijacked) CloseWrite() error { return h.Conn.(interface{ CloseWrite() error }).CloseWrite() }
