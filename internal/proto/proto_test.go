package proto

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

var (
	id      = [16]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	signal1 = Signal{ID: id, Seq: 7, Expiry: time.UnixMilli(1_800_000_000_000), Name: "reboot", ContentType: "text/plain", Data: []byte("now")}
	signal2 = Signal{ID: id, Name: "x", Data: []byte{}}
)

// values makes the bytes of every frame that testdata/vectors.json pins.
func values(t *testing.T) map[string][]byte {
	t.Helper()
	written := func(f func(io.Writer) error) []byte {
		var b bytes.Buffer
		if err := f(&b); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	return map[string][]byte{
		"signal":           AppendSignal(nil, &signal1),
		"signal_least":     AppendSignal(nil, &signal2),
		"ack":              AppendAck(nil, &Ack{id, OK, "done"}),
		"ack_refused":      AppendAck(nil, &Ack{id, Refused, "no"}),
		"drain":            AppendDrain(nil, Drain{2 * time.Second, 500 * time.Millisecond}),
		"bye":              AppendBye(nil, Answer{Replaced, "newer"}),
		"open":             written(func(w io.Writer) error { return WriteOpen(w, "ssh") }),
		"answer_ok":        written(func(w io.Writer) error { return WriteAnswer(w, Answer{}) }),
		"answer_not_found": written(func(w io.Writer) error { return WriteAnswer(w, Answer{NotFound, "no service ssh"}) }),
		"hello": written(func(w io.Writer) error {
			return WriteJSON(w, &Hello{Version: 1, Carrier: "websocket", Services: []string{"ssh"}})
		}),
		"ready": written(func(w io.Writer) error {
			return WriteJSON(w, &Greeting{Ready: &Ready{Session: "s", Device: "d", Keepalive: 25 * time.Second, Streams: 256, Time: time.Unix(0, 0).UTC()}})
		}),
		"refused": written(func(w io.Writer) error {
			return WriteJSON(w, &Greeting{Refused: &Refusal{Code: Busy, Text: "later", RetryAfter: time.Minute}})
		}),
	}
}

// The bytes on the wire are a promise: a change here is a change of protocol.
// UPDATE_VECTORS=1 writes the file anew.
func TestVectors(t *testing.T) {
	const file = "testdata/vectors.json"
	got := map[string]string{}
	for name, b := range values(t) {
		got[name] = hex.EncodeToString(b)
	}
	if os.Getenv("UPDATE_VECTORS") != "" {
		b, err := json.MarshalIndent(got, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	for name := range got {
		if got[name] != want[name] {
			t.Errorf("%s\n got %s\nwant %s", name, got[name], want[name])
		}
	}
	if len(want) != len(got) {
		t.Errorf("%d vectors in the file, %d here", len(want), len(got))
	}
}

func TestFramesComeBack(t *testing.T) {
	v := values(t)
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
		b := values(t)[name]
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
