package udp

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/atls-ws/atls-ws/internal/leak"
	"github.com/atls-ws/atls-ws/internal/proto"
)

func TestMain(m *testing.M) { leak.Main(m) }

// listen serves a port whose flows are handled by serve.
func listen(t *testing.T, dial func(context.Context) (net.Conn, error), log *slog.Logger) (port *net.UDPAddr, stop func()) {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	l := &Listener{Conn: conn, Dial: dial, Logger: log}
	go func() { done <- l.Serve(ctx) }()
	return conn.LocalAddr().(*net.UDPAddr), func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func client(t *testing.T, port *net.UDPAddr) *net.UDPConn {
	t.Helper()
	c, err := net.DialUDP("udp", nil, port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

func TestEachSenderHasAFlowOfItsOwn(t *testing.T) {
	echo, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = echo.Close() }()
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, from, err := echo.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = echo.WriteTo(bytes.ToUpper(buf[:n]), from)
		}
	}()
	var joins sync.WaitGroup
	port, stop := listen(t, func(context.Context) (net.Conn, error) {
		near, far := net.Pipe()
		joins.Go(func() {
			socket, err := net.Dial("udp", echo.LocalAddr().String())
			if err == nil {
				err = Join(far, socket)
			}
			if err != nil {
				t.Error(err)
			}
		})
		return near, nil
	}, slog.New(slog.DiscardHandler))
	a, b := client(t, port), client(t, port)
	buf := make([]byte, 64<<10)
	for _, d := range []string{"one", "", "three", string(bytes.Repeat([]byte("x"), 9000))} {
		for _, c := range []*net.UDPConn{a, b} {
			_, _ = c.Write([]byte(d))
			if n, err := c.Read(buf); err != nil || !bytes.Equal(buf[:n], bytes.ToUpper([]byte(d))) {
				t.Errorf("%d bytes, %v, want %d", n, err, len(d))
			}
		}
	}
	stop()
	joins.Wait()
}

func TestPortOutlivesStreamsThatCannotBeMade(t *testing.T) {
	var mu sync.Mutex
	tries := 0
	port, stop := listen(t, func(context.Context) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		tries++
		if tries == 1 {
			return nil, errors.New("not connected")
		}
		near, far := net.Pipe()
		go func() {
			buf := make([]byte, proto.MaxDatagram)
			n, err := proto.ReadDatagram(far, buf)
			if err != nil {
				return
			}
			framed, _ := proto.AppendDatagram(nil, buf[:n])
			_, _ = far.Write(framed)
			_ = far.Close()
		}()
		return near, nil
	}, slog.New(slog.DiscardHandler))
	defer stop()
	lost := client(t, port)
	_, _ = lost.Write([]byte("lost"))
	for {
		mu.Lock()
		n := tries
		mu.Unlock()
		if n > 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	c := client(t, port)
	_, _ = c.Write([]byte("ping"))
	buf := make([]byte, 10)
	if n, err := c.Read(buf); err != nil || string(buf[:n]) != "ping" {
		t.Errorf("%q, %v", buf[:n], err)
	}
}

func TestIdleFlowEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		socket, peer := net.Pipe()
		go func() { // a datagram half a minute on keeps the flow
			time.Sleep(Idle / 2)
			d, _ := proto.AppendDatagram(nil, []byte("x"))
			_, _ = far.Write(d)
		}()
		go func() { _, _ = peer.Read(make([]byte, 10)) }()
		started := time.Now()
		if err := Join(near, socket); err != nil {
			t.Error(err)
		}
		if took := time.Since(started); took != Idle+Idle/2 {
			t.Errorf("ended after %s", took)
		}
		_ = far.Close()
	})
}

func TestTheIdlestFlowMakesRoom(t *testing.T) {
	l := &Listener{flows: map[netip.AddrPort]*flow{}}
	for i := range 3 {
		f := newFlow()
		f.moved.Store(int64(10 - i))
		l.flows[netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(i))] = f
	}
	idlest := l.flows[netip.AddrPortFrom(netip.IPv4Unspecified(), 2)]
	l.evictLocked()
	if len(l.flows) != 2 {
		t.Errorf("%d flows", len(l.flows))
	}
	select {
	case <-idlest.done:
	default:
		t.Error("another one ended")
	}
}
