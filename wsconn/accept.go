package wsconn

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/atls-ws/atls-ws/internal/answer"
	"github.com/atls-ws/atls-ws/internal/outer"
)

// AcceptOptions configure Accept. The zero value works.
type AcceptOptions struct {
	// Origins are the values of Origin that may connect, as browsers send them
	// (https://app.example). By default a request with an Origin is refused.
	Origins []string
}

// Listener wraps the listener below the outer TLS: the records of a message then
// share one write, which saves a tenth of the CPU of bulk transfers. It is not
// needed otherwise.
//
//	srv.ServeTLS(wsconn.Listener(l), cert, key)
func Listener(l net.Listener) net.Listener { return outer.BatchListener{Listener: l} }

// Accept answers r in any case: with a WebSocket upgrade, or with a status that
// says what is wrong. The caller owns the Conn, which outlives the handler. An
// error says what was answered.
func Accept(w http.ResponseWriter, r *http.Request, o *AcceptOptions) (*Conn, error) {
	if o == nil {
		o = &AcceptOptions{}
	}
	if err := check(w, r, o); err != nil {
		return nil, err
	}
	offered := r.Header.Values("Sec-Websocket-Protocol")
	ours := hasToken(r.Header, "Sec-Websocket-Protocol", func(t string) bool { return t == Subprotocol })
	r = r.Clone(r.Context())
	r.Header.Del("Sec-Websocket-Protocol") // the library would ignore case, and echo it
	if ours {
		r.Header.Set("Sec-Websocket-Protocol", Subprotocol)
	}
	h := &hijack{ResponseWriter: w}
	ws, err := websocket.Accept(h, r, &websocket.AcceptOptions{
		Subprotocols:       []string{Subprotocol},
		InsecureSkipVerify: true, // of Origin: check did
		CompressionMode:    websocket.CompressionDisabled,
	})
	if err != nil {
		if h.carrier != nil {
			_ = h.carrier.hard.Close()
		}
		return nil, errors.New(answer.Printable(err.Error())) // it quotes headers of any length
	}
	_ = ws.CloseNow() // of nowhere: without it the garbage collector would not free ws
	c := newConn(h.carrier, h.head, r.TLS)
	if len(offered) > 0 && !ours {
		c.tx.bid(statusPolicy, "subprotocol must be "+Subprotocol)
		_ = c.Close()
		return nil, fmt.Errorf("client offers subprotocol %q, want %q", answer.Printable(strings.Join(offered, ", ")), Subprotocol)
	}
	return c, nil
}

// check answers the requests that are no upgrade for us.
func check(w http.ResponseWriter, r *http.Request, o *AcceptOptions) error {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		return refuse(w, http.StatusMethodNotAllowed, "about:blank", "GET with a WebSocket upgrade only")
	}
	if !r.ProtoAtLeast(1, 1) || r.ProtoMajor > 1 ||
		!hasToken(r.Header, "Connection", fold("upgrade")) || !hasToken(r.Header, "Upgrade", fold("websocket")) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
		return refuse(w, http.StatusUpgradeRequired, answer.UpgradeRequired, "this is an ATLS service; the Upgrade header did not arrive")
	}
	w.Header().Set("Connection", "close") // until a 101 says Upgrade: what follows is no request
	if r.ContentLength != 0 || len(r.TransferEncoding) > 0 {
		return refuse(w, http.StatusBadRequest, "about:blank", "the upgrade request has a body")
	}
	for _, origin := range r.Header.Values("Origin") {
		if !slices.ContainsFunc(o.Origins, fold(origin)) {
			return refuse(w, http.StatusForbidden, "about:blank", "origin is not allowed")
		}
	}
	if !hijackable(w) {
		return refuse(w, http.StatusNotImplemented, "about:blank", "this server cannot upgrade")
	}
	return nil
}

// hijackable says whether Hijack will find a connection, before a 101 is sent.
func hijackable(w http.ResponseWriter) bool {
	for {
		switch t := w.(type) {
		case http.Hijacker:
			return true
		case interface{ Unwrap() http.ResponseWriter }:
			w = t.Unwrap()
		default:
			return false
		}
	}
}

// refuse answers with a problem document (RFC 9457) and returns it as an error.
func refuse(w http.ResponseWriter, status int, typ, title string) error {
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, "{\"type\":%q,\"title\":%q,\"status\":%d}\n", typ, title, status)
	return fmt.Errorf("answered %d: %s", status, title)
}

func fold(want string) func(string) bool {
	return func(s string) bool { return strings.EqualFold(s, want) }
}

// hasToken looks in a header that is a comma-separated list.
func hasToken(h http.Header, key string, is func(string) bool) bool {
	for _, v := range h.Values(key) {
		for t := range strings.SplitSeq(v, ",") {
			if is(strings.TrimSpace(t)) {
				return true
			}
		}
	}
	return false
}

// hijack keeps the connection from websocket.Accept, which does the upgrade.
type hijack struct {
	http.ResponseWriter
	carrier *sender
	head    []byte // what net/http read ahead
}

// Hijack gives the library a connection that it does nothing with.
func (h *hijack) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	hard, secure := conn, false
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok {
		hard, secure = outer.Lowest(t.NetConn()), true
	}
	if err := rw.Flush(); err != nil { // a wrapper of net/http's writer may have left the answer there
		_ = conn.Close()
		return nil, nil, err
	}
	// The server's deadlines were for the request.
	if err := conn.SetDeadline(time.Time{}); err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	h.head, _ = rw.Peek(rw.Reader.Buffered())
	h.carrier = newSender(conn, hard, false, secure)
	none := nowhere{Conn: conn}
	return none, bufio.NewReadWriter(bufio.NewReaderSize(none, 16), bufio.NewWriterSize(none, 16)), nil
}

// nowhere is the connection that the library has: it ends at once, and closing
// it closes nothing.
type nowhere struct{ net.Conn }

func (nowhere) Read([]byte) (int, error)    { return 0, io.EOF }
func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (nowhere) Close() error                { return nil }
