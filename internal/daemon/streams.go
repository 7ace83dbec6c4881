package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/server"
)

const (
	serviceTimeout = 10 * time.Second // to connect to a device's service
	keptFailures   = 256
)

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
	ctx, cancel := context.WithTimeout(r.Context(), serviceTimeout)
	defer cancel()
	stream, err := a.server.DialDevice(ctx, r.PathValue("id"), r.PathValue("service"))
	if err != nil {
		replyError(w, err)
		return
	}
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = stream.Close()
		fail(w, http.StatusInternalServerError, err.Error())
		return
	}
	id := a.begin()
	a.wg.Go(func() {
		_, _ = fmt.Fprintf(buf, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n%s: %d\r\n\r\n",
			admin.Protocol, admin.StreamHeader, id)
		_ = buf.Flush() // an error shows in what follows
		operator := &hijacked{UnixConn: conn.(*net.UnixConn), ahead: buf}
		if err := server.Splice(operator, &watched{Stream: stream.(*server.Stream), failed: func(err error) { a.fail(id, err) }}); err != nil {
			a.log.Debug("operator's connection broke", "device", r.PathValue("id"), "service", r.PathValue("service"), "err", err)
		}
	})
}

// stream tells an operator whose socket has ended whether that was the end.
func (a *api) stream(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseUint(r.PathValue("stream"), 10, 64)
	if err != nil {
		fail(w, http.StatusBadRequest, "want the number of a stream")
		return
	}
	a.mu.Lock()
	text, failed := a.failed[id]
	a.mu.Unlock()
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
	*net.UnixConn
	ahead io.Reader
}

func (h *hijacked) Read(p []byte) (int, error) { return h.ahead.Read(p) }

// watched is a stream whose errors are noted before whoever copies acts on
// them by closing the operator's connection.
type watched struct {
	*server.Stream
	failed func(error)
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Stream.Read(p)
	return n, w.note(err)
}

func (w *watched) Write(p []byte) (int, error) {
	n, err := w.Stream.Write(p)
	return n, w.note(err)
}

func (w *watched) note(err error) error {
	if err != nil && !errors.Is(err, io.EOF) {
		w.failed(err)
	}
	return err
}
