package session

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/internal/proto"
	"github.com/atls-ws/atls-ws/internal/vectors"
)

// step is what one end sends in the worked example. do makes a real end send it
// when nothing that it received does.
type step struct {
	From string `json:"from"`
	What string `json:"what"`
	Hex  string `json:"hex"`

	do    func(ctx context.Context, s *Session)
	parts []part
}

// part is a step's bytes with what they mean.
type part struct {
	b       []byte
	meaning string
}

var (
	exampleID    = [16]byte{0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f}
	exampleReady = proto.Ready{Session: "9f86d081884c7d65", Device: "device-1", Keepalive: DefaultKeepalive, Streams: DefaultStreams, Time: time.Unix(1_750_000_000, 0).UTC()}
)

// example is a whole session: the inner TLS handshake is before it, and
// close_notify, which the client sends last, after it.
func example(t *testing.T) []step {
	must := func(f func(w io.Writer) error) []byte {
		var b bytes.Buffer
		if err := f(&b); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	greeting := func(v any) []part {
		b := must(func(w io.Writer) error { return proto.WriteJSON(w, v) })
		return []part{{b[:4], fmt.Sprintf("length %d", len(b)-4)}, {b[4:], "JSON"}}
	}
	open := func(name string) []byte { return must(func(w io.Writer) error { return proto.WriteOpen(w, name) }) }
	answer := must(func(w io.Writer) error { return proto.WriteAnswer(w, proto.Answer{}) })
	window := func(flags uint16, stream uint32, what string) part {
		return part{frame(frameWindow, flags, stream, 0), fmt.Sprintf("window update, %s, stream %d", what, stream)}
	}
	data := func(stream uint32, body []byte, meaning string) []part {
		return []part{{frame(frameData, 0, stream, uint32(len(body))), fmt.Sprintf("data, stream %d, %d bytes", stream, len(body))}, {body, meaning}}
	}
	join := func(parts ...[]part) (all []part) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	one := func(p part) []part { return []part{p} }
	sig := proto.Signal{ID: exampleID, Name: "display", ContentType: "text/plain", Data: []byte("hello pump")}

	steps := []step{
		{From: "client", What: "Hello", parts: greeting(&proto.Hello{Version: 1, Software: "example/1", Carrier: "websocket"})},
		{From: "server", What: "Ready", parts: greeting(&proto.Greeting{Ready: &exampleReady})},
		{
			From: "server", What: "opens its signal stream and, not waiting for yamux's answer, names the service",
			parts: join(one(window(flagSYN, 2, "SYN")), data(2, open(proto.ServiceSignals), "version 1, service signals")),
			do:    func(ctx context.Context, s *Session) { go func() { _, _ = s.Signal(ctx, sig) }() },
		},
		{From: "client", What: "takes it", parts: join(one(window(2, 2, "ACK")), data(2, answer, "code 0, no text"))},
		{From: "server", What: "pushes a signal", parts: data(2, proto.AppendSignal(nil, &sig), "type 0x01, length, id, seq 0, no expiry, display, text/plain, hello pump")},
		{From: "client", What: "acks it", parts: data(2, proto.AppendAck(nil, &proto.Ack{ID: exampleID, Text: "showing"}), "type 0x81, length, id, code 0, showing")},
		{
			From: "client", What: "connects to the service echo", parts: join(one(window(flagSYN, 1, "SYN")), data(1, open("echo"), "version 1, service echo")),
			do: func(ctx context.Context, s *Session) {
				go func() {
					if c, err := s.Dial(ctx, "echo"); err == nil {
						_, _ = c.Write([]byte("hello"))
						_ = c.(*Stream).CloseWrite()
					}
				}()
			},
		},
		{From: "server", What: "accepts", parts: join(one(window(2, 1, "ACK")), data(1, answer, "code 0, no text"))},
		{From: "client", What: "sends five bytes and its end", parts: join(data(1, []byte("hello"), "hello"), one(window(4, 1, "FIN")))},
		{From: "server", What: "sends them back, and its end", parts: join(data(1, []byte("hello"), "hello"), one(window(4, 1, "FIN")))},
		{
			From: "server", What: "pings, having heard nothing for a while", parts: []part{{frame(framePing, flagSYN, 0, 0), "ping, SYN, value 0"}},
			do: func(_ context.Context, s *Session) { s.frames.ping(0) },
		},
		{From: "client", What: "answers", parts: []part{{frame(framePing, 2, 0, 0), "ping, ACK, the same value"}}},
		{
			From: "server", What: "says why it will go", parts: data(2, proto.AppendBye(nil, proto.Answer{Code: proto.Closing, Text: "the server is shutting down"}), "type 0x03, length, code 8, text"),
			do: func(ctx context.Context, s *Session) {
				go func() { _ = s.CloseBye(ctx, proto.Closing, "the server is shutting down") }()
			},
		},
	}
	for i, s := range steps {
		for _, p := range s.parts {
			steps[i].Hex += hex.EncodeToString(p.b)
		}
	}
	return steps
}

// render is the example as a person reads it.
func render(steps []step) string {
	var b strings.Builder
	for _, s := range steps {
		fmt.Fprintf(&b, "%s: %s\n", s.From, s.What)
		for _, p := range s.parts {
			meaning := p.meaning
			if meaning == "JSON" {
				fmt.Fprintf(&b, "    %s\n", p.b)
				continue
			}
			for i := 0; i < len(p.b); i += 16 {
				fmt.Fprintf(&b, "    %-49s %s\n", fmt.Sprintf("% x", p.b[i:min(i+16, len(p.b))]), meaning)
				meaning = ""
			}
		}
	}
	return b.String()
}

// Both real ends, each against a peer that only knows the vectors.
func TestWorkedExampleIsWhatBothEndsDo(t *testing.T) {
	steps := example(t)
	vectors.Check(t, "session", steps)
	vectors.Document(t, "session", render(steps))
	for _, real := range []string{"server", "client"} {
		t.Run(real, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			a, b := tcpPipe(t)
			var mux Mux
			made := make(chan *Session, 1)
			var peer *tls.Conn
			if real == "server" {
				echo(t, &mux, "echo")
				c := testCerts().clientTLS()
				c.NextProtos = []string{proto.ALPNMux}
				peer = tls.Client(a, c)
				go func() {
					acceptor, err := NewAcceptor(&Config{TLS: testCerts().serverTLS(), Mux: &mux, Admit: func(tls.ConnectionState, *Hello) (string, error) { return exampleReady.Device, nil }})
					check(err)
					var s *Session
					if in, err := acceptor.Accept(ctx, b, nil); err == nil {
						in.limited.rtt = 0 // on a busy machine the peer would seem far, and get fewer streams
						s, _ = in.Session(ctx)
					}
					made <- s
				}()
			} else {
				mux.OnSignal("display", func(context.Context, Signal) (string, error) { return "showing", nil })
				c := testCerts().serverTLS()
				c.NextProtos, c.ClientAuth = []string{proto.ALPNMux}, tls.RequireAndVerifyClientCert
				peer = tls.Server(b, c)
				go func() {
					s, _ := Client(ctx, a, &Config{TLS: testCerts().clientTLS(), Mux: &mux, Hello: func() Hello { return Hello{Software: "example/1", Carrier: "websocket"} }})
					made <- s
				}()
			}
			_ = peer.SetDeadline(time.Now().Add(10 * time.Second))
			var s *Session
			defer func() {
				_ = peer.Close()
				if s != nil {
					_ = s.Close()
				}
			}()
			for i, st := range example(t) {
				want, _ := hex.DecodeString(st.Hex)
				if st.From != real {
					if _, err := peer.Write(want); err != nil {
						t.Fatalf("%s: %v", st.What, err)
					}
					continue
				}
				if i > 1 && s == nil {
					if s = <-made; s == nil {
						t.Fatal("no session")
					}
				}
				if st.do != nil {
					st.do(ctx, s)
				}
				got := make([]byte, len(want))
				if st.What == "Ready" {
					got = readReady(t, peer)
				} else if n, err := io.ReadFull(peer, got); err != nil {
					t.Fatalf("%s: %x, %v, want %x", st.What, got[:n], err, want)
				}
				if !bytes.Equal(got, want) {
					t.Fatalf("%s\n got %x\nwant %x", st.What, got, want)
				}
			}
			if real == "client" {
				if s == nil {
					t.Fatal("no session")
				}
				<-s.Done() // the Bye ends it
				if !strings.Contains(s.Err().Error(), "the server is shutting down") {
					t.Error(s.Err())
				}
			}
		})
	}
}

// readReady reads a Ready and puts the example's values for those that differ
// in each session.
func readReady(t *testing.T, r io.Reader) []byte {
	t.Helper()
	var g proto.Greeting
	if err := proto.ReadJSON(r, &g); err != nil || g.Ready == nil {
		t.Fatal(g, err)
	}
	if len(g.Ready.Session) != 16 || time.Since(g.Ready.Time).Abs() > time.Hour {
		t.Errorf("%+v", g.Ready)
	}
	g.Ready.Session, g.Ready.Time = exampleReady.Session, exampleReady.Time
	var b bytes.Buffer
	if err := proto.WriteJSON(&b, &g); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestYamuxVectors pins the frames of yamux that the protocol uses, for readers
// who have no yamux.
func TestYamuxVectors(t *testing.T) {
	type vector struct {
		Name   string `json:"name"`
		Type   byte   `json:"type"`
		Flags  uint16 `json:"flags"`
		Stream uint32 `json:"stream"`
		Length uint32 `json:"length"`
		Means  string `json:"means"`
		Hex    string `json:"hex"`
	}
	all := []vector{
		{"open", frameWindow, flagSYN, 1, 0, "the client opens stream 1", ""},
		{"accept", frameWindow, 2, 1, 0, "the server has taken stream 1", ""},
		{"data", frameData, 0, 1, 5, "five bytes follow", ""},
		{"data_open", frameData, flagSYN, 3, 5, "opens stream 3 too: valid, not sent by this implementation", ""},
		{"window", frameWindow, 0, 1, 131072, "the receiver has room for 131072 bytes more", ""},
		{"fin", frameWindow, 4, 1, 0, "no data follows from this end", ""},
		{"data_fin", frameData, 4, 1, 0, "the same: valid, not sent by this implementation", ""},
		{"reset", frameWindow, flagRST, 1, 0, "the stream is broken, both ways", ""},
		{"ping", framePing, flagSYN, 0, 7, "answer this, with the same value", ""},
		{"pong", framePing, 2, 0, 7, "the answer", ""},
		{"go_away", 3, 0, 0, 0, "no new streams; 1 in place of 0: protocol error, 2: internal error", ""},
	}
	for i, v := range all {
		f := frame(v.Type, v.Flags, v.Stream, v.Length)
		all[i].Hex = hex.EncodeToString(f)
		if f[0] != 0 || binary.BigEndian.Uint32(f[4:]) != v.Stream {
			t.Errorf("%s: %x", v.Name, f)
		}
	}
	vectors.Check(t, "yamux", all)
}
