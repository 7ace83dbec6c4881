package postconn

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	cookieName    = "atls"
	sessionHeader = "Atls-Session" // the locator again: some boxes strip the cookie, some the header
	offsetHeader  = "Atls-Offset"  // decimal: the place of the body's first byte in its stream
	ackHeader     = "Atls-Ack"     // decimal: bytes of the other direction received so far
	finHeader     = "Atls-Fin"     // 1: no byte follows this body

	maxOffset  = 1<<62 - 1 // four exabytes; sums do not overflow
	maxLocator = 128
)

// head is what the headers of a request or an answer say.
type head struct {
	locator     string
	plain       bool // no offset: a client that acks each answer by its next request
	offset, ack uint64
	fin         bool
	poll        bool          // Prefer: wait, it wants bytes
	wait        time.Duration // how long, at most maxHold
}

// parseHead reads the headers of a request or an answer.
func parseHead(h http.Header) (*head, error) {
	var m head
	var err error
	if m.locator, err = locator(h); err != nil {
		return nil, err
	}
	m.plain = len(h.Values(offsetHeader)) == 0
	if m.offset, err = number(h, offsetHeader); err != nil {
		return nil, err
	}
	if m.ack, err = number(h, ackHeader); err != nil {
		return nil, err
	}
	switch fin := h.Values(finHeader); {
	case len(fin) == 0:
	case len(fin) == 1 && fin[0] == "1":
		m.fin = true
	default:
		return nil, errors.New(finHeader + " is not 1")
	}
	m.wait, m.poll = prefer(h)
	return &m, nil
}

// locator is what a request's cookies and header, or an answer's, agree on.
func locator(h http.Header) (string, error) {
	found := h.Values(sessionHeader)
	for _, c := range (&http.Request{Header: h}).CookiesNamed(cookieName) {
		found = append(found, c.Value)
	}
	for _, c := range (&http.Response{Header: h}).Cookies() {
		if c.Name == cookieName {
			found = append(found, c.Value)
		}
	}
	if len(found) == 0 {
		return "", nil
	}
	for _, l := range found {
		if l != found[0] {
			return "", errors.New("cookie and " + sessionHeader + " differ")
		}
	}
	if l := found[0]; l == "" || len(l) > maxLocator || strings.ContainsFunc(l, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && r != '-' && r != '_'
	}) {
		return "", errors.New("malformed session")
	}
	return found[0], nil
}

// number reads a decimal header; absent is 0.
func number(h http.Header, key string) (uint64, error) {
	v := h.Values(key)
	if len(v) == 0 {
		return 0, nil
	}
	n, err := strconv.ParseUint(v[0], 10, 64)
	if len(v) > 1 || err != nil || n > maxOffset || v[0][0] == '+' {
		return 0, fmt.Errorf("malformed %s", key)
	}
	return n, nil
}

// prefer reads "wait" of RFC 7240, of which the first counts. A malformed
// preference is none.
func prefer(h http.Header) (time.Duration, bool) {
	for _, v := range h.Values("Prefer") {
		for p := range strings.SplitSeq(v, ",") {
			p, _, _ = strings.Cut(p, ";")
			key, value, _ := strings.Cut(p, "=")
			if !strings.EqualFold(strings.TrimSpace(key), "wait") {
				continue
			}
			value = strings.Trim(strings.TrimSpace(value), `"`)
			n, err := strconv.ParseUint(value, 10, 31)
			if err != nil {
				return 0, false
			}
			return min(time.Duration(n)*time.Second, maxHold), true
		}
	}
	return 0, false
}

// write sets the headers that requests and answers share.
func (m *head) write(h http.Header) {
	h.Set("Content-Type", ContentType)
	h.Set("Cache-Control", "no-store, no-transform")
	h.Set(offsetHeader, strconv.FormatUint(m.offset, 10))
	h.Set(ackHeader, strconv.FormatUint(m.ack, 10))
	if m.fin {
		h.Set(finHeader, "1")
	}
}

// isOurs looks at the content type.
func isOurs(h http.Header) bool {
	t, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	return err == nil && t == ContentType
}

var errTooLarge = errors.New("body is too large")

// readBody reads a body of at most limit bytes and of a known length, -1 when
// it is not known. release gives the memory back.
func readBody(r io.Reader, length, limit int64) (body []byte, release func(), err error) {
	if length > limit {
		return nil, nil, errTooLarge
	}
	if length == 0 {
		return nil, func() {}, nil
	}
	buf := bodies.Get().(*[MaxBody + 1]byte)
	release = func() { bodies.Put(buf) }
	n := 0
	for n <= int(limit) {
		k, err := r.Read(buf[n : limit+1])
		n += k
		if err == io.EOF { // unwrapped, it is the body's end and not a cut
			return buf[:n], release, nil
		}
		if err != nil {
			release()
			return nil, nil, err
		}
	}
	release()
	return nil, nil, errTooLarge
}
