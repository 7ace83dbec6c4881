package postconn

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"time"
)

const (
	defaultMaxConns = 10_000
	maxGraves       = 1000

	readyTimeout = 30 * time.Second  // from the first request to Established
	idleTimeout  = 120 * time.Second // from the last request on
	graveTimeout = 30 * time.Second  // a connection that ended is still answered for
	bodyTimeout  = 30 * time.Second  // for a request's body to come, and for an answer to go

	fullRetry = 10 * time.Second // Retry-After when there is no room
)

// HandlerOptions configure a Handler. Accept is required.
type HandlerOptions struct {
	// Accept is called in a goroutine of its own for each new connection, which
	// it owns and closes. The handler's Close waits for it. r is a copy of the
	// first request without body and context.
	Accept func(c *Conn, r *http.Request)
	// Admit is called before a new connection is made; one is made if, and only
	// if, it returns true. If not, it has answered, as with 503 and Retry-After.
	// nil admits all.
	Admit func(w http.ResponseWriter) bool
	// Refused, if set, is called for each request that is not answered 200, with
	// the status and why.
	Refused func(r *http.Request, status int, why string)
	// MaxConns is the greatest number of connections; 0 is 10,000. Above it
	// requests for more are answered 503.
	MaxConns int
}

// Handler is the server's end of all connections: mount it for POST requests.
// It sets the read and write deadlines of its requests itself.
type Handler struct {
	o HandlerOptions

	mu     sync.Mutex
	closed bool
	making int // connections that Admit is asked about
	conns  map[string]*served
	graves map[string]*grave
	order  []*grave // oldest first
	wg     sync.WaitGroup
}

// grave answers for a connection that both ends have closed, so that an answer
// which was lost can be repeated.
type grave struct {
	locator string
	head    head
	until   time.Time
}

// NewHandler makes a Handler. It does no I/O. The caller closes it, before
// http.Server.Shutdown: that waits for requests which are held.
func NewHandler(o *HandlerOptions) *Handler {
	h := &Handler{o: *o, conns: map[string]*served{}, graves: map[string]*grave{}}
	if h.o.MaxConns <= 0 {
		h.o.MaxConns = defaultMaxConns
	}
	if h.o.Admit == nil {
		h.o.Admit = func(http.ResponseWriter) bool { return true }
	}
	return h
}

// ServeHTTP answers one request of a connection. It holds the request for up to
// 20 seconds while there is nothing to say or no room for its body.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := h.serve(w, r); err != nil {
		if h.o.Refused != nil {
			h.o.Refused(r, err.status, err.title)
		}
		err.write(w)
	}
}

// refusal is an answer other than 200.
type refusal struct {
	status int
	title  string
	retry  time.Duration // 0 is no Retry-After
	ack    *uint64       // of a 409: where the client goes on
}

func refuse(status int, title string) *refusal { return &refusal{status: status, title: title} }

func unknown() *refusal { return refuse(http.StatusNotFound, "unknown session") }

func full() *refusal {
	return &refusal{status: http.StatusServiceUnavailable, title: "no room for a further connection now", retry: fullRetry}
}

// write answers with a problem document (RFC 9457).
func (e *refusal) write(w http.ResponseWriter) {
	if e.retry > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(e.retry.Seconds())))
	}
	if e.ack != nil {
		w.Header().Set(ackHeader, strconv.FormatUint(*e.ack, 10))
	}
	if e.status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", http.MethodPost)
	}
	body := fmt.Sprintf("{\"type\":\"about:blank\",\"title\":%q,\"status\":%d}\n", e.title, e.status)
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.Header().Set("Cache-Control", "no-store, no-transform")
	w.WriteHeader(e.status)
	_, _ = io.WriteString(w, body)
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request) *refusal {
	if r.Method != http.MethodPost {
		return refuse(http.StatusMethodNotAllowed, "POST only")
	}
	if !isOurs(r.Header) {
		return refuse(http.StatusUnsupportedMediaType, "the content type must be "+ContentType)
	}
	m, err := parseHead(r.Header)
	if err != nil {
		return refuse(http.StatusBadRequest, err.Error())
	}
	limit := int64(MaxBody)
	if m.locator == "" {
		limit = MaxFirstBody
		if m.offset != 0 || m.ack != 0 {
			return refuse(http.StatusBadRequest, "an offset without a session")
		}
		if !h.room() {
			return full()
		}
	} else if s, g := h.find(m.locator); s == nil && g == nil {
		return unknown()
	}
	// A slow body is bounded here, for a server without a ReadTimeout; and one
	// with it must not cut a request that is held.
	ctl := http.NewResponseController(w)
	_ = ctl.SetReadDeadline(time.Now().Add(bodyTimeout))
	body, release, err := readBody(r.Body, r.ContentLength, limit)
	if err == nil { // else net/http waits for the rest, before the answer and after it
		_ = ctl.SetReadDeadline(time.Time{})
	}
	if errors.Is(err, errTooLarge) {
		return refuse(http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is over %d bytes", limit))
	}
	if err != nil {
		return refuse(http.StatusBadRequest, "the body is cut")
	}
	q := &request{head: *m, body: body, release: release}
	defer q.done()
	return h.pass(w, r, q)
}

// pass finds the connection of a request, or makes one.
func (h *Handler) pass(w http.ResponseWriter, r *http.Request, q *request) *refusal {
	if !h.enter() {
		if q.locator != "" {
			return unknown()
		}
		return full()
	}
	defer h.wg.Done()
	if q.locator != "" {
		s, g := h.find(q.locator)
		switch {
		case s != nil:
			return s.serve(w, r, q)
		case g != nil:
			writeAnswer(w, &g.head, nil)
			return nil
		}
		return unknown()
	}
	s, e := h.open(w, r, q.plain)
	if s == nil {
		return e
	}
	q.first = true
	w.Header().Set(sessionHeader, s.locator)
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: s.locator, Path: requestPath(r),
		HttpOnly: true, Secure: true, SameSite: http.SameSiteStrictMode,
	})
	return s.serve(w, r, q)
}

// enter counts a request that Close waits for.
func (h *Handler) enter() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.wg.Add(1)
	}
	return !h.closed
}

func (h *Handler) room() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.roomLocked()
}

func (h *Handler) roomLocked() bool {
	return !h.closed && len(h.conns)+h.making < h.o.MaxConns
}

func (h *Handler) find(locator string) (*served, *grave) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sweepLocked()
	return h.conns[locator], h.graves[locator]
}

// open makes a connection. If it makes none and returns no refusal, Admit has
// answered.
func (h *Handler) open(w http.ResponseWriter, r *http.Request, plain bool) (*served, *refusal) {
	h.mu.Lock()
	if !h.roomLocked() {
		h.mu.Unlock()
		return nil, full()
	}
	h.making++
	h.mu.Unlock()
	admitted := h.o.Admit(w)
	if !admitted {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.making--
		return nil, nil
	}
	s := newServed(h, rand.Text(), plain) // 130 random bits
	s.outer = r.TLS
	s.local, _ = r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if s.local == nil {
		s.local = addr(r.Host)
	}
	s.remote = addr(r.RemoteAddr)
	if ap, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		s.remote = net.TCPAddrFromAddrPort(ap)
	}
	h.mu.Lock()
	h.making--
	h.conns[s.locator] = s
	closed := h.closed
	h.mu.Unlock()
	if closed { // while Admit was asked; Accept is called all the same
		s.kill("the server is closing")
	}
	first := r.Clone(context.Background())
	first.Body = http.NoBody
	h.wg.Go(func() { h.o.Accept(&s.Conn, first) })
	return s, nil
}

// bury forgets a connection. With a head it is answered for a while longer.
func (h *Handler) bury(s *served, m *head) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.conns, s.locator)
	if m == nil || h.closed {
		return
	}
	if len(h.order) == maxGraves {
		h.dropLocked()
	}
	g := &grave{locator: s.locator, head: *m, until: time.Now().Add(graveTimeout)}
	h.graves[s.locator] = g
	h.order = append(h.order, g)
}

func (h *Handler) sweepLocked() {
	for len(h.order) > 0 && !time.Now().Before(h.order[0].until) {
		h.dropLocked()
	}
}

func (h *Handler) dropLocked() {
	delete(h.graves, h.order[0].locator)
	h.order[0] = nil
	h.order = h.order[1:]
}

// Close ends all connections, what is not delivered with them, and waits for
// Accept and for the requests that are held. Later requests are refused.
func (h *Handler) Close() error {
	h.mu.Lock()
	h.closed = true
	conns := make([]*served, 0, len(h.conns))
	for _, s := range h.conns {
		conns = append(conns, s)
	}
	clear(h.graves)
	h.order = nil
	h.mu.Unlock()
	for _, s := range conns {
		s.kill("the server is closing")
	}
	h.wg.Wait()
	return nil
}

// requestPath is what the client asked for, which a handler in between may have
// taken apart.
func requestPath(r *http.Request) string {
	if u, err := url.ParseRequestURI(r.RequestURI); err == nil && u.Path != "" {
		return u.EscapedPath()
	}
	return r.URL.EscapedPath()
}
