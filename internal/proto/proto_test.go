package proto

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/internal/vectors"
)

var (
	id      = [16]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	signal1 = Signal{ID: id, Seq: 7, Expiry: time.UnixMilli(1_800_000_000_000), Name: "reboot", ContentType: "text/plain", Data: []byte("now")}
	signal2 = Signal{ID: id, Name: "x", Data: []byte{}}
)

// vector is a value and its bytes.
type vector struct {
	Name  string `json:"name"`
	Value any    `json:"value,omitempty"`
	JSON  string `json:"json,omitempty"` // of a greeting, as it is sent
	Hex   string `json:"hex"`
}

type fields map[string]any

var yes = true

var (
	helloFull = Hello{
		Version: 1, Software: "meter/2.1", Carrier: "post", Services: []string{"http", "ssh"}, Attempt: "JBSWY3DPEHPK3PXP",
		Applied: &Position{"q7", 41}, Probe: true,
		Outer: &OuterReport{TLSVersion: "TLS 1.2", VerifyError: "signed by unknown authority", Policy: "report", Exporter: bytes.Repeat([]byte{0xab}, 32),
			Chain: []OuterCert{{Subject: "CN=cloud.example", Issuer: "CN=Box CA", SHA256: strings.Repeat("0f", 32), NotAfter: time.Unix(1_900_000_000, 0).UTC(), DER: []byte{0x30, 0x03, 0x02, 0x01, 0x01}}}},
	}
	readyFull = Ready{Session: "9f86d081884c7d65", Device: "meter-1", Keepalive: 25 * time.Second, Streams: 256, Time: time.Unix(1_750_000_000, 0).UTC(), Queue: "q7", Intercepted: &yes}
)

// values makes the bytes of everything that docs/vectors.json pins.
func values(t *testing.T) (greetings, frames []vector) {
	t.Helper()
	greeting := func(name string, v any) {
		var b bytes.Buffer
		if err := WriteJSON(&b, v); err != nil {
			t.Fatal(err)
		}
		greetings = append(greetings, vector{Name: name, JSON: string(b.Bytes()[4:]), Hex: hex.EncodeToString(b.Bytes())})
	}
	frame := func(name string, v fields, b []byte) {
		frames = append(frames, vector{Name: name, Value: v, Hex: hex.EncodeToString(b)})
	}
	written := func(f func(io.Writer) error) []byte {
		var b bytes.Buffer
		if err := f(&b); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	greeting("hello_least", &struct {
		Version int `json:"version"`
	}{1})
	greeting("hello", &Hello{Version: 1, Carrier: "websocket", Services: []string{"ssh"}})
	greeting("hello_full", &helloFull)
	greeting("ready", &Greeting{Ready: &Ready{Session: "s", Device: "d", Keepalive: 25 * time.Second, Streams: 256, Time: time.Unix(0, 0).UTC()}})
	greeting("ready_full", &Greeting{Ready: &readyFull})
	greeting("refused", &Greeting{Refused: &Refusal{Code: Busy, Text: "later", RetryAfter: time.Minute}})

	open := func(name string) []byte { return written(func(w io.Writer) error { return WriteOpen(w, name) }) }
	answer := func(a Answer) []byte { return written(func(w io.Writer) error { return WriteAnswer(w, a) }) }
	frame("open", fields{"is": "open", "service": "ssh"}, open("ssh"))
	frame("open_signals", fields{"is": "open", "service": "signals"}, open(ServiceSignals))
	frame("answer_ok", fields{"is": "answer", "code": 0, "text": ""}, answer(Answer{}))
	frame("answer_not_found", fields{"is": "answer", "code": 2, "text": "no service ssh"}, answer(Answer{NotFound, "no service ssh"}))
	of := func(s Signal) fields {
		v := fields{"is": "signal", "id": hex.EncodeToString(s.ID[:]), "seq": s.Seq, "expiry_ms": 0, "name": s.Name, "content_type": s.ContentType, "data": string(s.Data)}
		if !s.Expiry.IsZero() {
			v["expiry_ms"] = s.Expiry.UnixMilli()
		}
		return v
	}
	frame("signal", of(signal1), AppendSignal(nil, &signal1))
	frame("signal_least", of(signal2), AppendSignal(nil, &signal2))
	frame("ack", fields{"is": "ack", "id": hex.EncodeToString(id[:]), "code": 0, "text": "done"}, AppendAck(nil, &Ack{id, OK, "done"}))
	frame("ack_refused", fields{"is": "ack", "id": hex.EncodeToString(id[:]), "code": 1, "text": "no"}, AppendAck(nil, &Ack{id, Refused, "no"}))
	frame("drain", fields{"is": "drain", "after_ms": 2000, "spread_ms": 500}, AppendDrain(nil, Drain{2 * time.Second, 500 * time.Millisecond}))
	frame("bye", fields{"is": "bye", "code": 7, "text": "newer"}, AppendBye(nil, Answer{Replaced, "newer"}))
	frame("unknown", fields{"is": "to be skipped", "type": 0x42}, []byte{0x42, 0, 0, 0, 2, 'h', 'i'})
	return greetings, frames
}

// bytesOf is values by name.
func bytesOf(t *testing.T) map[string][]byte {
	t.Helper()
	greetings, frames := values(t)
	all := map[string][]byte{}
	for _, v := range append(greetings, frames...) {
		b, err := hex.DecodeString(v.Hex)
		if err != nil {
			t.Fatal(err)
		}
		all[v.Name] = b
	}
	return all
}

// malformed is what a reader has to refuse, and why.
var malformed = []struct {
	Is  string `json:"is"` // greeting, open, answer, or the frame of the signal stream
	Why string `json:"why"`
	Hex string `json:"hex"`
}{
	{"greeting", "a length over 16 KiB", "00004001"},
	{"greeting", "not JSON", "000000027b5d"},
	{"open", "version 2", "0203737368"},
	{"open", "an empty name", "0100"},
	{"open", "a space in the name", "0103612062"},
	{"answer", "a text over 4 KiB", "011001"},
	{"frame", "a body over 65 KiB", "0100010401"},
	{"signal", "shorter than its fixed part", "01000000020000"},
	{"signal", "a name that is cut off", "0100000022" + "000102030405060708090a0b0c0d0e0f" + "0000000000000000" + "0000000000000000" + "0561"},
	{"signal", "an empty name", "0100000022" + "000102030405060708090a0b0c0d0e0f" + "0000000000000000" + "0000000000000000" + "0000"},
	{"signal", "an expiry over 2^52 ms", "0100000023" + "000102030405060708090a0b0c0d0e0f" + "0000000000000000" + "0010000000000001" + "017800"},
	{"ack", "a text length that is not the rest's", "8100000014" + "000102030405060708090a0b0c0d0e0f" + "0000056e"},
	{"drain", "not of 8 bytes", "020000000400000001"},
	{"bye", "a text that is cut off", "030000000307000a"},
}

// The bytes on the wire are a promise: a change here is a change of protocol.
func TestVectors(t *testing.T) {
	greetings, frames := values(t)
	vectors.Check(t, "greetings", greetings)
	vectors.Check(t, "frames", frames)
	vectors.Check(t, "malformed", malformed)
	for _, m := range malformed {
		b, err := hex.DecodeString(m.Hex)
		if err != nil {
			t.Fatal(err)
		}
		r := bytes.NewReader(b)
		switch m.Is {
		case "greeting":
			err = ReadJSON(r, new(Hello))
		case "open":
			_, err = ReadOpen(r)
		case "answer":
			_, err = ReadAnswer(r)
		default:
			var typ byte
			var body []byte
			if typ, body, err = ReadFrame(r); err == nil {
				_, err = parse(typ, body)
			}
		}
		if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s, %s: %v", m.Is, m.Why, err)
		}
	}
}

func TestGreetingsComeBack(t *testing.T) {
	v := bytesOf(t)
	var h Hello
	if err := ReadJSON(bytes.NewReader(v["hello_full"]), &h); err != nil || !reflect.DeepEqual(h, helloFull) {
		t.Errorf("%+v, %v, want %+v", h, err, helloFull)
	}
	var g Greeting
	if err := ReadJSON(bytes.NewReader(v["ready_full"]), &g); err != nil || !reflect.DeepEqual(*g.Ready, readyFull) {
		t.Errorf("%+v, %v, want %+v", g.Ready, err, readyFull)
	}
}

func TestFramesComeBack(t *testing.T) {
	v := bytesOf(t)
	for name, want := range map[string]any{
		"signal": signal1, "signal_least": signal2,
		"ack": Ack{id, OK, "done"}, "ack_refused": Ack{id, Refused, "no"},
		"drain": Drain{2 * time.Second, 500 * time.Millisecond}, "bye": Answer{Replaced, "newer"},
	} {
		typ, body, err := ReadFrame(bytes.NewReader(v[name]))
		if err != nil {
			t.Fatal(err)
		}
		got, err := parse(typ, body)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, want)
		}
	}
	if s, err := ReadOpen(bytes.NewReader(v["open"])); s != "ssh" || err != nil {
		t.Error(s, err)
	}
	if a, err := ReadAnswer(bytes.NewReader(v["answer_not_found"])); a != (Answer{NotFound, "no service ssh"}) || err != nil {
		t.Error(a, err)
	}
	var g Greeting
	if err := ReadJSON(bytes.NewReader(v["refused"]), &g); err != nil || g.Ready != nil || *g.Refused != (Refusal{Busy, "later", time.Minute}) {
		t.Error(g, err)
	}
}

func parse(typ byte, body []byte) (any, error) {
	switch typ {
	case FrameSignal:
		return ParseSignal(body)
	case FrameAck:
		return ParseAck(body)
	case FrameDrain:
		return ParseDrain(body)
	case FrameBye:
		return ParseBye(body)
	}
	return nil, nil
}

// Every proper prefix is an error, and none is a clean end but the empty one.
func TestCutOffInputIsAnError(t *testing.T) {
	readers := map[string]func(io.Reader) error{
		"signal": func(r io.Reader) error { _, _, err := ReadFrame(r); return err },
		"open":   func(r io.Reader) error { _, err := ReadOpen(r); return err },
		"answer_not_found": func(r io.Reader) error {
			_, err := ReadAnswer(r)
			return err
		},
		"hello": func(r io.Reader) error { return ReadJSON(r, new(Hello)) },
	}
	for name, read := range readers {
		b := bytesOf(t)[name]
		for n := range b {
			err := read(bytes.NewReader(b[:n]))
			if err == nil || n > 0 && err == io.EOF {
				t.Errorf("%s cut to %d bytes: %v", name, n, err)
			}
		}
	}
}

func TestOversizeIsRefusedBeforeItIsRead(t *testing.T) {
	big := strings.NewReader("\xff\xff\xff\xff\xff\xff\xff")
	if err := ReadJSON(big, new(Hello)); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	if _, _, err := ReadFrame(strings.NewReader("\x01\xff\xff\xff\xff")); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	if _, err := ReadAnswer(strings.NewReader("\x01\xff\xff")); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	if err := WriteJSON(io.Discard, &Hello{Software: strings.Repeat("x", MaxGreeting)}); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
}

func TestNames(t *testing.T) {
	for name, ok := range map[string]bool{"": false, "a": true, "a b": false, "ü": false, "\x00": false,
		strings.Repeat("x", 255): true, strings.Repeat("x", 256): false} {
		if (CheckName(name) == nil) != ok {
			t.Errorf("%q: %v", name, CheckName(name))
		}
	}
}

func FuzzFrame(f *testing.F) {
	f.Add(AppendSignal(nil, &signal1))
	f.Add(AppendAck(nil, &Ack{id, OK, "done"}))
	f.Add(AppendDrain(nil, Drain{time.Second, time.Second}))
	f.Add(AppendBye(nil, Answer{Busy, "x"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		typ, body, err := ReadFrame(bytes.NewReader(b))
		if err != nil {
			return
		}
		v, err := parse(typ, body)
		if err != nil {
			return
		}
		var again []byte
		switch v := v.(type) {
		case Signal:
			again = AppendSignal(nil, &v)
		case Ack:
			again = AppendAck(nil, &v)
		case Drain:
			again = AppendDrain(nil, v)
		case Answer:
			again = AppendBye(nil, v)
		default:
			return
		}
		if !bytes.Equal(again, b[:len(again)]) {
			t.Fatalf("%x came back as %x", b, again)
		}
	})
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte("\x01\x03ssh"))
	f.Fuzz(func(t *testing.T, b []byte) {
		name, err := ReadOpen(bytes.NewReader(b))
		if err != nil {
			return
		}
		var w bytes.Buffer
		if err := WriteOpen(&w, name); err != nil || !bytes.Equal(w.Bytes(), b[:w.Len()]) {
			t.Fatalf("%x came back as %x, %v", b, w.Bytes(), err)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte("\x02\x00\x02no"))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ReadAnswer(bytes.NewReader(b))
		if err != nil {
			return
		}
		var w bytes.Buffer
		if err := WriteAnswer(&w, a); err != nil || !bytes.Equal(w.Bytes(), b[:w.Len()]) {
			t.Fatalf("%x came back as %x, %v", b, w.Bytes(), err)
		}
	})
}

func FuzzGreeting(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x0d{\"version\":1}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var h Hello
		if err := ReadJSON(bytes.NewReader(b), &h); err == nil && len(b) < 4 {
			t.Fatal("a greeting of nothing")
		}
		_ = ReadJSON(bytes.NewReader(b), new(Greeting))
	})
}
