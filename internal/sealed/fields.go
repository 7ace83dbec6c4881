package sealed

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
)

// MaxFields bounds the field lines of a message.
const MaxFields = 16 << 10

// framing are the fields that are about one hop or about the length of what
// travels, and so never in a message.
var framing = []string{
	"Connection", "Content-Length", "Expect", "Host", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
	"Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade", Header,
}

// appendFields adds the field lines and the empty line.
func appendFields(b []byte, h http.Header) ([]byte, error) {
	var buf bytes.Buffer
	h = h.Clone()
	for _, name := range framing {
		h.Del(name)
	}
	if err := h.Write(&buf); err != nil { // sorted, without what could be another line
		return nil, err
	}
	buf.WriteString("\r\n")
	if buf.Len() > MaxFields {
		return nil, fmt.Errorf("header fields of %d bytes, at most %d can be sealed", buf.Len(), MaxFields)
	}
	return append(b, buf.Bytes()...), nil
}

// readFields reads them, and returns what follows them too.
func readFields(r io.Reader) (http.Header, io.Reader, error) {
	limited := &io.LimitedReader{R: r, N: MaxFields}
	br := bufio.NewReader(limited)
	h, err := textproto.NewReader(br).ReadMIMEHeader()
	if err != nil {
		if limited.N == 0 {
			return nil, nil, fmt.Errorf("%w: field lines of more than %d bytes", ErrMalformed, MaxFields)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, nil, fmt.Errorf("%w: no empty line after the field lines", ErrMalformed)
		}
		return nil, nil, err
	}
	for name, values := range h {
		if slices.Contains(framing, name) || strings.ContainsAny(name, " \t") { // net/textproto lets the latter pass
			return nil, nil, fmt.Errorf("%w: field %s", ErrMalformed, name)
		}
		for _, v := range values {
			if strings.ContainsFunc(v, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) {
				return nil, nil, fmt.Errorf("%w: a control character in field %s", ErrMalformed, name)
			}
		}
	}
	limited.N = math.MaxInt64
	return http.Header(h), br, nil
}
