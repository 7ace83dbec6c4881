package sealed

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/atls-ws/atls-ws/internal/ece"
	"github.com/atls-ws/atls-ws/internal/vectors"
)

// vector is a message with all that goes into it.
type vector struct {
	Of       string `json:"of"`
	Counter  uint64 `json:"counter"`
	Method   string `json:"method,omitempty"`
	Target   string `json:"target,omitempty"`
	Status   int    `json:"status,omitempty"`
	Key      string `json:"key"`
	Salt     string `json:"salt"`
	Record   int    `json:"record_size"`
	Plain    string `json:"plain"`
	Message  string `json:"message"`
	InHeader string `json:"header_value,omitempty"`
}

func testKeys(tb testing.TB) *Keys {
	tb.Helper()
	k, err := Derive(func(label string, context []byte, length int) ([]byte, error) {
		b := make([]byte, length)
		for i := range b {
			b[i] = byte(i)
		}
		return b, nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

// message seals with a fixed salt.
func message(tb testing.TB, s *Sealed, body string) []byte {
	tb.Helper()
	for i := range s.head.Salt {
		s.head.Salt[i] = byte(0xa0 + i)
	}
	var b bytes.Buffer
	w, err := s.Writer(&b)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := io.WriteString(w, body); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func TestVectors(t *testing.T) {
	k := testKeys(t)
	fields := http.Header{"Content-Type": {"text/plain"}}
	var all []vector
	add := func(v vector, s *Sealed, err error, body string, inHeader bool) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		m := message(t, s, body)
		v.Key, v.Salt, v.Record = hex.EncodeToString(s.key), hex.EncodeToString(s.head.Salt[:]), s.head.RecordSize
		v.Plain, v.Message = string(s.plain)+body, hex.EncodeToString(m)
		if inHeader {
			v.InHeader = base64.RawURLEncoding.EncodeToString(m)
		}
		all = append(all, v)
	}
	s, err := k.SealRequest(Request{1, "POST", "/orders?dry=1"}, fields)
	add(vector{Of: "request", Counter: 1, Method: "POST", Target: "/orders?dry=1"}, s, err, "two pumps", false)
	s, err = k.SealAnswer(1, 201, fields)
	add(vector{Of: "answer", Counter: 1, Status: 201}, s, err, "order 7", false)
	s, err = k.SealRequest(Request{2, "GET", "/orders/7"}, nil)
	add(vector{Of: "request", Counter: 2, Method: "GET", Target: "/orders/7"}, s, err, "", true)
	s, err = k.SealAnswer(2, 304, http.Header{"Etag": {`"1"`}})
	add(vector{Of: "answer", Counter: 2, Status: 304}, s, err, "", true)
	s, err = k.SealRequest(Request{3, "PUT", "/two/records"}, fields)
	if err == nil {
		s.head.RecordSize = 40
	}
	add(vector{Of: "request", Counter: 3, Method: "PUT", Target: "/two/records"}, s, err, "0123456789", false)
	vectors.Check(t, "sealed", map[string]any{
		"exported": hex.EncodeToString(append(append(k.ID[:], k.Up[:]...), k.Down[:]...)), "label": Label, "messages": all,
	})
}

func open(k *Keys, b []byte, method, target string) (*Message, string, error) {
	m, err := OpenRequest(bytes.NewReader(b), method, target, func(id ID) (*Keys, error) {
		if id != k.ID {
			return nil, errors.New("another id")
		}
		return k, nil
	})
	if err != nil {
		return nil, "", err
	}
	body, err := io.ReadAll(m.Body)
	return m, string(body), err
}

func TestFieldsComeBackWithoutThoseOfTheHop(t *testing.T) {
	k := testKeys(t)
	s, err := k.SealRequest(Request{9, "GET", "/"}, http.Header{
		"Accept": {"a", "b"}, "Connection": {"close"}, "Transfer-Encoding": {"chunked"}, "Content-Length": {"5"}, "Host": {"x"}, Header: {"x"}, "Evil": {"a\r\nb: c"},
	})
	if err != nil {
		t.Fatal(err)
	}
	m, body, err := open(k, message(t, s, "body"), "GET", "/")
	if err != nil || body != "body" || m.Counter != 9 || len(m.Header) != 2 || len(m.Header["Accept"]) != 2 || m.Header.Get("Evil") != "a  b: c" {
		t.Errorf("%+v, %q, %v", m, body, err)
	}
}

func TestMalformedFieldsAreRefused(t *testing.T) {
	k := testKeys(t)
	for name, plain := range map[string]string{
		"nothing": "", "no empty line": "A: b\r\n", "no colon": "A b\r\n\r\n", "hop": "Transfer-Encoding: chunked\r\n\r\n", "length": "Content-Length: 1\r\n\r\n",
		"control": "A: \x00\r\n\r\n", "long": "A: " + strings.Repeat("x", MaxFields) + "\r\n\r\n", "space": "A : b\r\n\r\n",
	} {
		s, err := k.SealRequest(Request{9, "GET", "/"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		s.plain = []byte(plain)
		if m, _, err := open(k, message(t, s, ""), "GET", "/"); err == nil {
			t.Errorf("%s: %+v", name, m)
		}
	}
	if _, err := k.SealRequest(Request{9, "GET", "/"}, http.Header{"A": {strings.Repeat("x", MaxFields)}}); err == nil {
		t.Error("too long, and sealed")
	}
	s, err := k.SealRequest(Request{9, "GET", "/"}, http.Header{"A": {strings.Repeat("x", maxHeader)}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Value(); err == nil {
		t.Error("too long for a header, and sealed")
	}
}

func TestKeysAreOfOneMessage(t *testing.T) {
	k := testKeys(t)
	seen := map[string]string{}
	add := func(name string, key []byte, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := seen[string(key)]; ok {
			t.Errorf("%s and %s have the same key", name, other)
		}
		seen[string(key)] = name
	}
	for _, r := range []Request{{1, "GET", "/"}, {2, "GET", "/"}, {1, "GETX", "/"}, {1, "GET", "/x"}, {1, "GE", "T/"}} {
		key, err := k.requestKey(r)
		add(r.Method+r.Target, key, err)
	}
	for _, status := range []int{200, 201} {
		key, err := k.answerKey(1, status)
		add("an answer", key, err)
	}
	if _, err := k.requestKey(Request{0, "GET", "/"}); err == nil {
		t.Error("counter 0")
	}
	if _, err := k.answerKey(1, 100); err == nil {
		t.Error("status 100")
	}
}

func FuzzOpen(f *testing.F) {
	k := testKeys(f)
	s, err := k.SealRequest(Request{1, "GET", "/"}, http.Header{"A": {"b"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(message(f, s, "body"), []byte("A: b\r\n\r\nbody"))
	f.Add([]byte("x"), []byte("\r\n"))
	f.Fuzz(func(t *testing.T, coded, plain []byte) {
		_, _, _ = open(k, coded, "GET", "/")
		s, err := k.SealRequest(Request{1, "GET", "/"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		s.plain = plain // authentic, and whatever it is
		_, _, err = open(k, message(t, s, ""), "GET", "/")
		if errors.Is(err, ece.ErrAuthentic) {
			t.Error(err)
		}
	})
}
