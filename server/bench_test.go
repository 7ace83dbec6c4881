//go:build unix

package server_test

import (
	"crypto/tls"
	"io"
	"net"
	"runtime"
	"syscall"
	"testing"
	"time"

	"context"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/pki"
	"github.com/atls-ws/atls-ws/server"
)

// Every benchmark runs beside "double": crypto/tls over crypto/tls over TCP,
// without WebSocket or streams, in the same run. What counts is the ratio of
// cpu-s/GiB (both ends), of ns/op, or of B/session.

type pipeMaker func(b *testing.B) (device, cloud net.Conn)

// overATLS is a stream of a session over wss.
func overATLS(b *testing.B) (device, cloud net.Conn) {
	s := newSite(b, &server.Config{})
	cfg := s.config(b, "device-1")
	l, err := cfg.Mux.Listen("pipe")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = l.Close() })
	s.dial(b, cfg)
	if cloud, err = s.srv.DialDevice(b.Context(), "device-1", "pipe"); err != nil {
		b.Fatal(err)
	}
	if device, err = l.Accept(); err != nil {
		b.Fatal(err)
	}
	return device, cloud
}

// doubleTLS is the baseline.
func doubleTLS(b *testing.B) (device, cloud net.Conn) {
	b.Helper()
	ca, err := pki.NewCA("test CA")
	if err != nil {
		b.Fatal(err)
	}
	sp, err := ca.Server([]string{pki.ServerName}, 0)
	srv := &tls.Config{Certificates: []tls.Certificate{cert(b, sp, err)}, ClientCAs: ca.Pool(), DynamicRecordSizingDisabled: true}
	dp, err := ca.Device("device-1", 0)
	cli := &tls.Config{RootCAs: ca.Pool(), ServerName: pki.ServerName, Certificates: []tls.Certificate{cert(b, dp, err)}, DynamicRecordSizingDisabled: true}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	inner := srv.Clone()
	inner.ClientAuth = tls.RequireAndVerifyClientCert
	server := tls.Server(tls.Server(accepted, srv), inner)
	device = tls.Client(tls.Client(raw, cli), cli)
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	if err := device.(*tls.Conn).Handshake(); err != nil {
		b.Fatal(err)
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	return device, server
}

func cpuSeconds() float64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

func BenchmarkBulk(b *testing.B) {
	for _, size := range []struct {
		name  string
		bytes int
	}{{"64KiB", 64 << 10}, {"1KiB", 1 << 10}} {
		for _, up := range []bool{true, false} {
			direction := map[bool]string{true: "up", false: "down"}[up]
			for _, stack := range []struct {
				name string
				make pipeMaker
			}{{"double", doubleTLS}, {"atls", overATLS}} {
				b.Run(direction+"/"+size.name+"/"+stack.name, func(b *testing.B) {
					from, to := stack.make(b)
					if !up {
						from, to = to, from
					}
					bulk(b, from, to, size.bytes)
				})
			}
		}
	}
}

func bulk(b *testing.B, from, to net.Conn, size int) {
	defer func() { _ = from.Close(); _ = to.Close() }()
	buf := make([]byte, size)
	b.SetBytes(int64(size))
	done := make(chan error, 1)
	b.ResetTimer()
	before := cpuSeconds()
	go func() {
		_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, io.LimitReader(to, int64(b.N)*int64(size)), make([]byte, 64<<10))
		done <- err
	}()
	for range b.N {
		if _, err := from.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	b.ReportMetric((cpuSeconds()-before)/(float64(b.N)*float64(size)/(1<<30)), "cpu-s/GiB")
}

func BenchmarkSignal(b *testing.B) {
	b.Run("double", func(b *testing.B) { // an echo of as many bytes
		device, cloud := doubleTLS(b)
		defer func() { _ = device.Close(); _ = cloud.Close() }()
		go func() { _, _ = io.Copy(device, device) }()
		buf := make([]byte, 100)
		b.ResetTimer()
		before := cpuSeconds()
		for range b.N {
			if _, err := cloud.Write(buf); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(cloud, buf); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric((cpuSeconds()-before)/float64(b.N)*1e6, "cpu-us/op")
	})
	b.Run("atls", func(b *testing.B) {
		s := newSite(b, &server.Config{})
		cfg := s.config(b, "device-1")
		cfg.Mux.OnSignal("s", func(context.Context, client.Signal) (string, error) { return "", nil })
		s.dial(b, cfg)
		data := make([]byte, 50)
		b.ResetTimer()
		before := cpuSeconds()
		for range b.N {
			if _, err := s.srv.Push(b.Context(), "device-1", server.Signal{Name: "s", Data: data}); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric((cpuSeconds()-before)/float64(b.N)*1e6, "cpu-us/op")
	})
}

// BenchmarkIdle reports the heap and stack of both ends of an idle session.
func BenchmarkIdle(b *testing.B) {
	const n = 200
	b.Run("double", func(b *testing.B) {
		for range b.N {
			idle(b, n, func() func() {
				device, cloud := doubleTLS(b)
				return func() { _ = device.Close(); _ = cloud.Close() }
			})
		}
	})
	b.Run("atls", func(b *testing.B) {
		s := newSite(b, &server.Config{})
		cfg := s.config(b, "device-1")
		for range b.N {
			i := 0
			idle(b, n, func() func() {
				c := *cfg
				pair, err := s.ca.Device("device-"+string(rune('a'+i/26))+string(rune('a'+i%26)), 0)
				i++
				c.TLS = c.TLS.Clone()
				c.TLS.Certificates = []tls.Certificate{cert(b, pair, err)}
				sess, err := client.Dial(b.Context(), &c)
				if err != nil {
					b.Fatal(err)
				}
				return func() { _ = sess.Close() }
			})
		}
	})
}

func idle(b *testing.B, n int, open func() func()) {
	before := inUse()
	closers := make([]func(), 0, n)
	for range n {
		closers = append(closers, open())
	}
	time.Sleep(200 * time.Millisecond) // until the last handler has returned
	b.ReportMetric(float64(inUse()-before)/float64(n), "B/session")
	for _, c := range closers {
		c()
	}
}

func inUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}
