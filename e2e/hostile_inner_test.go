//go:build e2e

package e2e

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"io"
	"strings"
)

// hostileInner are attacks on the inner handshake, on its records, and on Hello.
var hostileInner = []attack{
	{name: "inner: silence after the ClientHello", at: inner, do: func(f *foe) { f.send(string(helloRecord(f.T))) }, ends: readyTime, says: []string{"connection refused", "not ready within 8s"}},
	{name: "inner: half a ClientHello", at: inner, do: func(f *foe) { f.send(string(helloRecord(f.T)[:100])) }, ends: readyTime, says: []string{"connection refused", "inner handshake"}},
	{name: "inner: two ClientHellos", at: inner, do: func(f *foe) { f.send(strings.Repeat(string(helloRecord(f.T)), 2)) }, ends: atOnce, says: []string{"connection refused", "inner handshake"}},
	{name: "inner: garbage", at: inner, send: strings.Repeat("garbage ", 1000), ends: atOnce, says: []string{"connection refused", "inner handshake", "TLS handshake"}},
	{name: "inner: zeros", at: inner, send: strings.Repeat("\x00", 4096), ends: atOnce, says: []string{"connection refused", "inner handshake"}},
	{name: "inner: a record of 65535 bytes", at: inner, send: "\x16\x03\x01\xff\xff" + strings.Repeat("\x00", 65535), ends: atOnce, says: []string{"connection refused", "inner handshake"}},
	{name: "inner: a ClientHello of 16 MiB announced", at: inner, send: "\x16\x03\x01\x40\x00\x01\xff\xff\xff" + strings.Repeat("\x00", 16380), ends: atOnce, says: []string{"connection refused", "inner handshake"}},
	{name: "inner: records without content", at: inner, send: strings.Repeat("\x16\x03\x01\x00\x00", 1000), ends: atOnce, says: []string{"connection refused", "inner handshake"}},
	{name: "inner: alerts without end", at: inner, send: strings.Repeat("\x15\x03\x01\x00\x02\x01\x5a", 1000), ends: atOnce, says: []string{"connection refused", "inner handshake"}},
	{name: "inner: application data first", at: inner, send: "\x17\x03\x03\x00\x05hello", ends: atOnce, says: []string{"connection refused", "inner handshake"}},
	{name: "inner: byte by byte", at: inner, do: func(f *foe) { loris(string(helloRecord(f.T)), 1)(f) }, ends: readyTime, says: []string{"connection refused", "not ready within 8s"}},

	{name: "inner: TLS 1.2", at: inner, tls: version(tls.VersionTLS12), do: handshakeFails("protocol version"), ends: atOnce, says: []string{"connection refused", "unsupported versions"}},
	{name: "inner: TLS 1.0", at: inner, tls: version(tls.VersionTLS10), do: handshakeFails("protocol version"), ends: atOnce, says: []string{"connection refused", "unsupported versions"}},
	{name: "inner: ALPN h2", at: inner, tls: alpn("h2"), do: handshakeFails("no application protocol"), ends: atOnce, says: []string{"connection refused", "inner handshake", "h2"}},
	{name: "inner: ALPN http/1.1", at: inner, tls: alpn("http/1.1"), do: handshakeFails("no application protocol"), ends: atOnce, says: []string{"connection refused", "inner handshake", "http/1.1"}},
	{name: "inner: ALPN in capitals", at: inner, tls: alpn("ATLS-MUX/1"), do: handshakeFails("no application protocol"), ends: atOnce, says: []string{"connection refused", "inner handshake"}},
	{name: "inner: no ALPN", at: greeted, tls: alpn(), do: func(*foe) {}, ends: atOnce, says: []string{"connection refused", "negotiated ALPN"}},
	{name: "inner: no certificate", at: inner, tls: func(f *foe) { f.conf.Certificates = nil }, do: refusedLater("certificate required"), ends: atOnce, says: []string{"connection refused", "inner handshake", "certificate"}},
	{name: "inner: a certificate chain of 200 KiB", at: inner, tls: chain(200<<10, 1), do: refusedLater(""), ends: atOnce, says: []string{"connection refused", "more than 65536 bytes before ready"}},
	{name: "inner: a certificate chain of 200 KiB in 16", at: inner, tls: chain(200<<10/16, 16), do: refusedLater(""), ends: atOnce, says: []string{"connection refused", "more than 65536 bytes before ready"}},
	{name: "inner: a chain of 1,000 pieces", at: inner, tls: chain(40, 1000), do: refusedLater(""), ends: atOnce, says: []string{"connection refused", "inner handshake"}},
	{name: "inner: the device's own certificate 50 times", at: inner, tls: func(f *foe) {
		c := &f.conf.Certificates[0]
		for range 50 {
			c.Certificate = append(c.Certificate, c.Certificate[0])
		}
	}, do: func(f *foe) {
		f.climb2()
		f.hello()
	}},

	{name: "records: a ClientHello again", at: greeted, do: sealed(func(s *sealer, f *foe) []byte { return s.record(recordHandshake, helloRecord(f.T)[5:]) }), ends: atOnce, says: []string{"connection refused", "unexpected"}},
	{name: "records: a ClientHello again, in plain", at: greeted, do: func(f *foe) { _, _ = f.c.Write(helloRecord(f.T)) }, ends: atOnce, says: []string{"connection refused"}},
	{name: "records: a certificate again", at: greeted, do: sealed(func(s *sealer, _ *foe) []byte { return s.handshake(handshakeCert, make([]byte, 100)) }), ends: atOnce, says: []string{"connection refused", "tls:"}},
	{name: "records: a ticket from the client", at: greeted, do: sealed(func(s *sealer, _ *foe) []byte { return s.handshake(handshakeTicket, make([]byte, 100)) }), ends: atOnce, says: []string{"connection refused"}},
	{name: "records: a handshake message of 16 MiB announced", at: greeted, do: sealed(func(s *sealer, _ *foe) []byte {
		return s.record(recordHandshake, []byte{handshakeKeyUpdate, 0xff, 0xff, 0xff, 0})
	}), ends: atOnce, says: []string{"connection refused"}},
	{name: "records: new keys without end", at: greeted, do: sealed(func(s *sealer, _ *foe) (all []byte) {
		for range 200 {
			all = append(all, s.keyUpdate(1)...)
		}
		return all
	}), ends: atOnce, says: []string{"connection refused"}},
	{name: "records: without content", at: greeted, do: sealed(func(s *sealer, _ *foe) (all []byte) {
		for range 200 {
			all = append(all, s.record(recordData, nil)...)
		}
		return all
	}), ends: atOnce, says: []string{"connection refused"}},
	{name: "records: not authentic", at: greeted, do: sealed(func(s *sealer, _ *foe) []byte {
		r := s.record(recordData, []byte("hello"))
		r[len(r)-1] ^= 1
		return r
	}), ends: atOnce, says: []string{"connection refused", "bad record MAC"}},
	{name: "records: one again", at: greeted, do: sealed(func(s *sealer, _ *foe) []byte { return bytes.Repeat(s.record(recordData, []byte{0}), 2) }), ends: atOnce, says: []string{"connection refused", "bad record MAC"}},
	{name: "records: not authentic in a session", at: muxed, do: func(f *foe) { _, _ = f.c.Write(append([]byte{recordData, 3, 3, 0, 64}, make([]byte, 64)...)) }, ends: atOnce, says: []string{"device disconnected", "bad record MAC"}},
	{name: "records: an inner handshake again in a session", at: muxed, do: func(f *foe) { _, _ = f.c.Write(helloRecord(f.T)) }, ends: atOnce, says: []string{"device disconnected", "err="}},
	{name: "records: the end in a session without goodbye", at: muxed, do: func(f *foe) { _, _ = f.w.Write(closeFrame(1000, "")) }, ends: atOnce, says: []string{"device disconnected", "err="}},
	{name: "records: the server's first flight is not read", at: inner, do: func(f *foe) {
		f.send(string(helloRecord(f.T)))
		f.send(strings.Repeat("\x15\x03\x03\x00\x02\x01\x5a", 10))
	}, ends: atOnce, says: []string{"connection refused"}},

	{name: "hello: none", at: greeted, do: func(*foe) {}, ends: readyTime, says: []string{"connection refused", "not ready within 8s"}},
	{name: "hello: half a length", at: greeted, send: "\x00\x00", ends: readyTime, says: []string{"connection refused", "not ready within 8s"}},
	{name: "hello: half", at: greeted, send: "\x00\x00\x10\x00{", ends: readyTime, says: []string{"connection refused", "not ready within 8s"}},
	{name: "hello: byte by byte", at: greeted, do: loris("\x00\x00\x01\x00"+strings.Repeat(" ", 256), 1), ends: readyTime, says: []string{"connection refused", "not ready within 8s"}},
	{name: "hello: 4 GiB announced", at: greeted, send: "\xff\xff\xff\xff", ends: atOnce, answer: []string{"refused", "4294967295"}, says: []string{"connection refused", "4294967295"}},
	{name: "hello: of no bytes", at: greeted, send: "\x00\x00\x00\x00", ends: atOnce, answer: []string{"refused", "malformed"}, says: []string{"connection refused", "malformed"}},
	{name: "hello: no JSON", at: greeted, send: "\x00\x00\x00\x04\xff\xfe\x00{", ends: atOnce, answer: []string{"refused", "malformed"}, says: []string{"connection refused", "malformed"}},
	{name: "hello: JSON 16,000 deep", at: greeted, send: hello(strings.Repeat("[", 16_000)), ends: atOnce, answer: []string{"refused", "malformed"}, says: []string{"connection refused", "malformed"}},
	{name: "hello: of version 2", at: greeted, send: hello(`{"version":2}`), ends: atOnce, answer: []string{"refused", "version 2, want 1"}, says: []string{"connection refused", "version 2, want 1"}},
	{name: "hello: without version", at: greeted, send: hello(`{}`), ends: atOnce, answer: []string{"refused", "version 0, want 1"}, says: []string{"connection refused", "version 0, want 1"}},
	{name: "hello: of other types", at: greeted, send: hello(`{"version":1,"services":{"a":1}}`), ends: atOnce, answer: []string{"refused", "malformed"}, says: []string{"connection refused", "malformed"}},
	{name: "hello: HTTP", at: greeted, send: "GET / HTTP/1.1\r\nHost: x\r\n\r\n", ends: atOnce, answer: []string{"refused"}, says: []string{"connection refused", "1195725856"}},
	{name: "hello: another handshake", at: greeted, do: func(f *foe) { f.send(string(helloRecord(f.T))) }, ends: atOnce, answer: []string{"refused"}, says: []string{"connection refused", "hello"}},
	{name: "hello: 64 KiB in small pieces", at: greeted, do: func(f *foe) {
		f.send("\x00\x00\x40\x00")
		for range 16 << 10 {
			if !f.send(" ") { // a record each
				return
			}
		}
	}, ends: atOnce, says: []string{"connection refused", "more than 65536 bytes before ready"}},
	{name: "hello: log lines within", at: greeted, do: func(f *foe) {
		f.send(hello(`{"version":1,"software":"x\n` + `time=now level=ERROR msg=forged\u001b[31m"}`))
		f.until("ready")
	}, says: []string{"device connected", `software="x\ntime=now level=ERROR msg=forged\x1b[31m"`}},
	{name: "hello: again after Ready", at: muxed, send: hello(`{"version":1}`), ends: deadTime, says: []string{"device disconnected", "err="}},

	{name: "http: frames of yamux", at: hosted, send: strings.Repeat(mux(yPing, ySYN, 0, ""), 10), ends: headerTime, not: []string{"200 OK"}, says: nil},
	{name: "http: Hello", at: hosted, send: hello(`{"version":1}`), ends: headerTime, not: []string{`"ready"`}},
	{name: "http: silence", at: hosted, do: func(*foe) {}, ends: headerTime},
	{name: "http: header lines without end", at: hosted, do: endless("GET / HTTP/1.1\r\nHost: x\r\n", "X-Filler: "+strings.Repeat("x", 1000)+"\r\n", 4<<20), ends: atOnce, answer: []string{"431"}},
	{name: "http: another protocol over it", at: hosted, send: "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n", answer: []string{"200 OK"}},
}

func hello(text string) string {
	return string(binary.BigEndian.AppendUint32(nil, uint32(len(text)))) + text
}

func alpn(names ...string) func(*foe) { return func(f *foe) { f.conf.NextProtos = names } }

func version(v uint16) func(*foe) {
	return func(f *foe) { f.conf.MinVersion, f.conf.MaxVersion = tls.VersionTLS10, v }
}

// chain puts n pieces of a size behind the device's certificate.
func chain(size, n int) func(*foe) {
	return func(f *foe) {
		c := &f.conf.Certificates[0]
		for range n {
			c.Certificate = append(c.Certificate, make([]byte, size))
		}
	}
}

// climb2 goes on to where Hello is due.
func (f *foe) climb2() {
	f.Helper()
	f.tls = tls.Client(f.c, f.conf)
	if err := f.tls.Handshake(); err != nil {
		f.Fatalf("inner handshake: %v", err)
	}
	f.io = f.tls
}

// handshakeFails is a handshake that the server must end with an alert.
func handshakeFails(alert string) func(*foe) {
	return func(f *foe) {
		err := tls.Client(f.c, f.conf).Handshake()
		if err == nil || !strings.Contains(err.Error(), alert) {
			f.Errorf("the handshake gives %v, want %q", err, alert)
		}
	}
}

// refusedLater is a handshake whose alert the client sees after its own end.
func refusedLater(alert string) func(*foe) {
	return func(f *foe) {
		c := tls.Client(f.c, f.conf)
		err := c.Handshake()
		if err == nil {
			_, err = io.ReadAll(c)
		}
		if alert != "" && (err == nil || !strings.Contains(err.Error(), alert)) {
			f.Errorf("the server says %v, want %q", err, alert)
		}
	}
}

// sealed sends records made by hand.
func sealed(make func(*sealer, *foe) []byte) func(*foe) {
	return func(f *foe) {
		s := newSealer(f.T, f.tls.ConnectionState(), f.log.Bytes())
		_, _ = f.c.Write(make(s, f))
	}
}
