//go:build unix

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/yamux"

	"github.com/atls-ws/atls-ws/internal/pki"
	"github.com/atls-ws/atls-ws/server"
)

// stat is what the server process says of itself.
type stat struct {
	Sessions   int
	Goroutines int
	RSS        int64 // bytes, as it stands
	Returned   int64 // bytes of RSS after the garbage is gone
	Heap       int64
	Stack      int64
	CPU        float64 // seconds so far
	Refused    int     // handshakes that came to nothing
	Error      string
}

// fleetServer is a server of one of the stacks.
type fleetServer interface {
	http.Handler
	sessions() int
	refused() int
	signalAll() error
	down(n int64) error // sends n bytes to each device
}

// serveFleet is the server process of a fleet: its arguments are the stack and
// the scheme; it prints its address and then answers commands, one a line.
func serveFleet(o *options) error {
	if len(o.args) != 2 {
		return errors.New("serve is run by the other commands")
	}
	if o.heap != "" {
		runtime.MemProfileRate = 1
	}
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	k, err := readKeys(in)
	if err != nil {
		return err
	}
	var s fleetServer
	if o.args[0] == naive {
		s = &naiveFleet{keys: k}
	} else if s, err = newOurFleet(k); err != nil {
		return err
	}
	web := newWeb(k, o.args[1] == "wss", s)
	fmt.Println(web.Listener.Addr())
	out := json.NewEncoder(os.Stdout)
	for in.Scan() {
		cmd, arg, _ := strings.Cut(in.Text(), " ")
		var err error
		switch cmd {
		case "signal":
			err = s.signalAll()
		case "down":
			n, _ := strconv.ParseInt(arg, 10, 64)
			err = s.down(n)
		case "heap":
			err = writeHeap(arg)
		}
		st := statNow(s.sessions())
		st.Refused = s.refused()
		if err != nil {
			st.Error = err.Error()
		}
		if err := out.Encode(st); err != nil {
			return err
		}
	}
	return nil // the devices' process has gone
}

func statNow(sessions int) stat {
	st := stat{Sessions: sessions, Goroutines: runtime.NumGoroutine(), RSS: rss(), CPU: cpuSeconds()}
	runtime.GC() // a first one moves what pools hold, a second one frees it
	debug.FreeOSMemory()
	st.Returned = rss()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	st.Heap, st.Stack = int64(m.HeapInuse), int64(m.StackInuse)
	return st
}

func rss() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b))
	n, _ := strconv.ParseInt(f[1], 10, 64)
	return n * int64(os.Getpagesize())
}

func writeHeap(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return pprof.Lookup("heap").WriteTo(f, 0)
}

// readKeys takes the server's part of the keys: a line of JSON.
func readKeys(in *bufio.Scanner) (*keys, error) {
	if !in.Scan() {
		return nil, io.ErrUnexpectedEOF
	}
	var sent sentKeys
	if err := json.Unmarshal(in.Bytes(), &sent); err != nil {
		return nil, err
	}
	k := &keys{}
	var err error
	if k.outer, err = sent.Outer.TLS(); err != nil {
		return nil, err
	}
	if k.server, err = sent.Server.TLS(); err != nil {
		return nil, err
	}
	k.roots, err = sent.pool()
	return k, err
}

type sentKeys struct {
	CA            []byte
	Outer, Server *pki.Pair
}

// ourFleet is atls-ws.
type ourFleet struct {
	*server.Server
	refusals atomic.Int32
}

func newOurFleet(k *keys) (fleetServer, error) {
	mux := new(server.Mux)
	l, err := mux.Listen("sink")
	if err != nil {
		return nil, err
	}
	go sinkAll(l)
	s := &ourFleet{}
	s.Server, err = server.New(&server.Config{TLS: k.innerServer(), Mux: mux, Hooks: server.Hooks{
		Refused: func(_ string, err error) {
			if s.refusals.Add(1) == 1 {
				logf("the server's first failure: %v", err)
			}
		},
	}})
	return s, err
}

// sinkAll reads what comes to its end and closes.
func sinkAll(l interface{ Accept() (net.Conn, error) }) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			_, _ = io.Copy(io.Discard, conn)
			_ = conn.Close()
		}()
	}
}

func (s *ourFleet) sessions() int { return s.Registry().Len() }

func (s *ourFleet) refused() int { return int(s.refusals.Load()) }

// each calls fn for every device, sixty-four at a time.
func each[T any](all []T, fn func(T) error) error {
	var wg sync.WaitGroup
	slots := make(chan struct{}, 64)
	var mu sync.Mutex
	var errs []error
	for _, x := range all {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := fn(x); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(errs) > 0 {
		return fmt.Errorf("%d failed, the first: %w", len(errs), errs[0])
	}
	return nil
}

func (s *ourFleet) all() (devices []string) {
	for sess := range s.Registry().All() {
		devices = append(devices, sess.Device())
	}
	return devices
}

func (s *ourFleet) signalAll() error {
	return each(s.all(), func(device string) error {
		_, err := s.Push(context.Background(), device, server.Signal{Name: "s", Data: make([]byte, 100)})
		return err
	})
}

func (s *ourFleet) down(n int64) error {
	return each(s.all(), func(device string) error {
		conn, err := s.DialDevice(context.Background(), device, "sink")
		if err != nil {
			return err
		}
		return sendAll(conn, n)
	})
}

func sendAll(conn net.Conn, n int64) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{conn}, io.LimitReader(zeros{}, n), make([]byte, 32<<10))
	return errors.Join(err, conn.Close())
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// naiveFleet keeps yamux sessions; a signal is a stream with an echo.
type naiveFleet struct {
	keys *keys
	n    atomic.Int32
	mu   sync.Mutex
	all  []*yamux.Session
}

func (s *naiveFleet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	mux, err := naiveAccept(s.keys, w, r)
	if err != nil {
		return
	}
	s.mu.Lock()
	s.all = append(s.all, mux)
	s.mu.Unlock()
	go func() {
		s.n.Add(1)
		sinkAll(mux)
		s.n.Add(-1)
	}()
}

func (s *naiveFleet) sessions() int { return int(s.n.Load()) }

func (s *naiveFleet) refused() int { return 0 }

func (s *naiveFleet) signalAll() error {
	return each(s.all, func(mux *yamux.Session) error {
		conn, err := mux.Open()
		if err != nil {
			return err
		}
		return errors.Join(echoOnce(conn, make([]byte, 100)), conn.Close())
	})
}

func (s *naiveFleet) down(n int64) error {
	return each(s.all, func(mux *yamux.Session) error {
		conn, err := mux.Open()
		if err != nil {
			return err
		}
		// The device takes the first 100 bytes for a signal and sends them back.
		go func() { _, _ = io.Copy(io.Discard, conn) }()
		return sendAll(conn, n)
	})
}
