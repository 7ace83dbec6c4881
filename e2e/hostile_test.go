//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// Bounds of the server: its own, of docs/PROTOCOL.md, and of hostileConfig.
const (
	atOnce     = time.Second
	headerTime = 10 * time.Second // outer handshake and request header
	bodyTime   = 30 * time.Second // a whole request
	readyTime  = 8 * time.Second  // from the upgrade to Ready
	deadTime   = 13 * time.Second // silence of a session: three intervals and a beat
	openTime   = 10 * time.Second // header of a stream
)

const hostileConfig = "limits: {ready_timeout: 8s, keepalive: 3s}\n"

// layer is where a peer writes its bytes; everything below is in order.
type layer int

const (
	tcp     layer = iota // instead of the outer handshake
	outer                // in the outer TLS: the request
	framed               // after the 101: frames
	inner                // in messages: records of the inner TLS
	greeted              // in the inner TLS: Hello
	muxed                // after Ready: frames of yamux
	signals              // in a signal stream
	hosted               // in the inner TLS of atls-http/1
)

// attack is what a hostile peer does, and what the server must do about it.
type attack struct {
	name string
	at   layer
	send string        // the bytes,
	do   func(*foe)    // or what else it does
	tls  func(*foe)    // changes the inner configuration
	ends time.Duration // the server ends the connection within; 0: it need not
	// What the server answers has these words, at the layer outer as it stands
	// and above in the last layer's bytes; not says what it must not have.
	answer, not []string
	// A line of the log at its default level has these words beside the peer's
	// address, or the device.
	says []string
}

// foe is one hostile peer.
type foe struct {
	*testing.T
	a      *arena
	device string
	conf   *tls.Config
	w      *wire
	c      *carrier
	tls    *tls.Conn
	log    bytes.Buffer  // of the inner TLS's secrets
	io     io.ReadWriter // where it writes
}

// run is an attack from the connection to the end, with a healthy device after it.
func (a *arena) run(t *testing.T, k attack) {
	f := &foe{T: t, a: a, device: a.newDevice()}
	f.w = dialTCP(t, a.addr)
	said, stop := f.listen(k.says)
	defer stop()
	f.climb(k)
	if k.do != nil {
		k.do(f)
	} else if _, err := io.WriteString(f.io, k.send); err != nil && k.ends == 0 {
		t.Errorf("sending: %v", err)
	}
	var got []byte
	if k.ends > 0 {
		got = f.ended(k.ends)
	} else if len(k.answer) > 0 {
		got = f.until(k.answer[len(k.answer)-1])
	}
	contains(t, string(got), k.answer...)
	for _, w := range k.not {
		if bytes.Contains(got, []byte(w)) {
			t.Errorf("%q is in the answer %.2000q", w, got)
		}
	}
	late := time.AfterFunc(slack, stop)
	defer late.Stop()
	if err := <-said; err != nil {
		t.Errorf("the log: %v; it says\n%s", err, f.lines())
	}
	_ = f.w.tcp.Close()
	a.healthy(t)
}

// climb does in order what is below the layer of the attack.
func (f *foe) climb(k attack) {
	f.io = f.w.tcp
	if k.at >= outer {
		f.w = f.w.outerTLS(f.T)
		f.io = f.w
	}
	if k.at >= framed {
		f.w.upgrade(f.T)
	}
	if k.at >= inner {
		f.c = &carrier{wire: f.w}
		f.io = f.c
		f.conf = f.a.innerTLSOf(f.T, f.device)
		f.conf.KeyLogWriter = &f.log
		if k.at == hosted {
			f.conf.NextProtos = []string{"atls-http/1"}
		}
		if k.tls != nil {
			k.tls(f)
		}
	}
	if k.at >= greeted {
		f.tls = tls.Client(f.c, f.conf)
		if err := f.tls.Handshake(); err != nil {
			f.Fatalf("inner handshake: %v", err)
		}
		f.io = f.tls
	}
	if k.at == muxed || k.at == signals {
		f.hello()
	}
	if k.at == signals {
		f.send(mux(yData, ySYN, 1, "\x01\x07signals"))
		f.io = &stream{f.tls, 1}
	}
}

// hello is Hello, and Ready.
func (f *foe) hello() {
	f.Helper()
	const hello = `{"version":1,"software":"hostile"}`
	f.send(string(binary.BigEndian.AppendUint32(nil, uint32(len(hello)))) + hello)
	var head [4]byte
	if _, err := io.ReadFull(f.tls, head[:]); err != nil {
		f.Fatalf("ready: %v", err)
	}
	body := make([]byte, binary.BigEndian.Uint32(head[:])%65536)
	var answer struct{ Ready, Refused json.RawMessage }
	if _, err := io.ReadFull(f.tls, body); err != nil || json.Unmarshal(body, &answer) != nil || answer.Ready == nil {
		f.Fatalf("not ready: %q, %v", body, err)
	}
}

// send writes at the layer that has been reached; the server may have ended the
// connection, which is then seen by who reads.
func (f *foe) send(s string) bool {
	_, err := io.WriteString(f.io, s)
	return err == nil
}

// listen looks for the line of the log from now on, until it is stopped.
func (f *foe) listen(words []string) (<-chan error, context.CancelFunc) {
	said := make(chan error, 1)
	ctx, stop := context.WithCancel(bounded(f.T))
	if len(words) == 0 {
		said <- nil
		return said, stop
	}
	by := "remote=" + f.w.addr
	if slices.Contains(words, "device disconnected") {
		by = "device=" + f.device + " "
	}
	go func() {
		_, err := f.a.server.Await(ctx, append([]string{by}, words...)...)
		said <- err
	}()
	return said, stop
}

// lines are those of the log about this peer.
func (f *foe) lines() string {
	var about []string
	for line := range strings.Lines(f.a.server.Log()) {
		if strings.Contains(line, f.w.addr) || strings.Contains(line, "device="+f.device+" ") {
			about = append(about, line)
		}
	}
	return strings.Join(about, "")
}

// ended reads to the end of the connection, which must come within the bound.
func (f *foe) ended(bound time.Duration) []byte {
	f.Helper()
	_ = f.w.tcp.SetDeadline(time.Now().Add(bound + slack))
	got, err := io.ReadAll(f.io)
	if f.io != io.ReadWriter(f.w.tcp) { // what is above may end before the connection does
		if _, e := io.Copy(io.Discard, f.w.tcp); errors.Is(e, os.ErrDeadlineExceeded) {
			err = e
		}
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		f.Errorf("the server has not ended the connection within %s; it sent %.500q", bound, got)
	}
	return got
}

// until reads until something has come.
func (f *foe) until(word string) (got []byte) {
	f.Helper()
	buf := make([]byte, 32<<10)
	for !strings.Contains(strings.ToLower(string(got)), strings.ToLower(word)) {
		n, err := f.io.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil {
			f.Errorf("%q has not come: %v, after %.500q", word, err, got)
			break
		}
	}
	return got
}

// drain reads and drops what comes, beside what the caller does.
func (f *foe) drain() (stop context.CancelFunc) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(io.Discard, f.io)
	}()
	return func() {
		_ = f.w.tcp.SetReadDeadline(time.Unix(1, 0))
		<-done
		_ = f.w.tcp.SetReadDeadline(time.Time{})
	}
}

// TestHostilePeers: none of them costs a healthy device anything.
func TestHostilePeers(t *testing.T) {
	t.Parallel()
	a := newArena(t, hostileConfig+hostileServices(t))
	attacks := slices.Concat(hostileRequests, hostileFrames, hostileInner, hostileStreams, hostileSignals, hostilePosts)
	slices.SortStableFunc(attacks, func(a, b attack) int { return int(b.ends - a.ends) }) // those that wait longest first
	all(t, attacks, func(k attack) string { return k.name }, a.run)
	a.settled(t)
}
