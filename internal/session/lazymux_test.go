package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// restBubble runs fn in fake time with a session both of whose ends can rest.
func restBubble(t *testing.T, fn func(*testing.T, ends)) {
	t.Helper()
	fakeTime(t, func(t *testing.T) {
		a, b := net.Pipe()
		mux := new(Mux)
		echo(t, mux, "echo")
		fn(t, connect(t, newArrivingConn(a), newArrivingConn(b), nil, &Config{Mux: mux}))
	})
}

func resting(s *Session) bool {
	s.mux.mu.Lock()
	defer s.mux.mu.Unlock()
	return s.mux.cur == nil
}

// A hundred thousand idle devices must not cost a yamux each; pings do not
// bring one back, and a stream does.
func TestIdleSessionHasNoMux(t *testing.T) {
	restBubble(t, func(t *testing.T, e ends) {
		for round := range 3 {
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			if !resting(e.client) || !resting(e.server) {
				t.Fatalf("round %d: resting: client %v, server %v", round, resting(e.client), resting(e.server))
			}
			if e.client.Err() != nil || e.server.Err() != nil {
				t.Fatalf("client %v, server %v", e.client.Err(), e.server.Err())
			}
			st, err := dialIn(t, e)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := st.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := st.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Minute)
			if resting(e.client) || resting(e.server) {
				t.Error("a session with a stream rests")
			}
			_ = st.Close()
		}
	})
}

// One end that cannot rest keeps its yamux, whose stream ids go on while the
// other end's begin anew.
func TestOneEndRests(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		a, b := net.Pipe()
		cm, sm := new(Mux), new(Mux)
		echo(t, cm, "device")
		echo(t, sm, "cloud")
		e := connect(t, a, newArrivingConn(b), &Config{Mux: cm}, &Config{Mux: sm})
		for range 3 {
			for _, d := range []struct {
				s    *Session
				name string
			}{{e.client, "cloud"}, {e.server, "device"}, {e.server, "device"}} {
				conn, err := d.s.Dial(t.Context(), d.name)
				if err != nil {
					t.Fatal(err)
				}
				go func() { _, _ = conn.Write(make([]byte, 100_000)); _ = conn.(*Stream).CloseWrite() }()
				if b, err := io.ReadAll(conn); len(b) != 100_000 || err != nil {
					t.Fatalf("%d, %v", len(b), err)
				}
				_ = conn.Close()
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			if !resting(e.server) || resting(e.client) {
				t.Errorf("resting: client %v, server %v", resting(e.client), resting(e.server))
			}
		}
	})
}

// A session at rest ends like any other: by Close, and by the peer's.
func TestEndOfASessionAtRest(t *testing.T) {
	restBubble(t, func(t *testing.T, e ends) {
		time.Sleep(10 * time.Minute)
		_ = e.client.Close()
		<-e.server.Done()
		if err := e.server.Err(); !errors.Is(err, ErrPeerGone) {
			t.Errorf("server: %v", err)
		}
		if _, err := e.client.Dial(t.Context(), "echo"); !errors.Is(err, ErrClosed) {
			t.Errorf("dial after close: %v", err)
		}
	})
}

// A dead peer is noticed by a session at rest too.
func TestDeadPeerIsNoticedAtRest(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		a, b := net.Pipe()
		link := newCountingConn(a)
		e := connect(t, link, newArrivingConn(b), nil, nil)
		time.Sleep(time.Minute)
		_ = link.hold()
		start := time.Now()
		<-e.server.Done()
		if d := time.Since(start); !errors.Is(e.server.Err(), ErrDead) || d < 50*time.Second || d > 75*time.Second {
			t.Errorf("server: %v after %s", e.server.Err(), d)
		}
	})
}

// Streams that are opened in the moment in which a session goes to rest are
// neither lost nor an error.
func TestDialsMeetTheBeginOfRest(t *testing.T) {
	restBubble(t, func(t *testing.T, e ends) {
		for i := range 200 {
			time.Sleep(restAfter - 2*time.Millisecond + time.Duration(i)*20*time.Microsecond)
			conn, err := e.client.Dial(t.Context(), "echo")
			if err != nil {
				t.Fatalf("dial %d: %v", i, err)
			}
			if _, err := fmt.Fprint(conn, "x"); err != nil {
				t.Fatalf("write %d: %v", i, err)
			}
			if _, err := conn.Read(make([]byte, 1)); err != nil {
				t.Fatalf("read %d: %v", i, err)
			}
			_ = conn.Close()
		}
	})
}

// The same in real time, with both ends dialing and many steps of rest.
func TestRestIsRaceFree(t *testing.T) {
	a, b := tcpPipe(t)
	cm, sm := new(Mux), new(Mux)
	echo(t, cm, "device")
	echo(t, sm, "cloud")
	e := connect(t, newArrivingConn(a), newArrivingConn(b), &Config{Mux: cm}, &Config{Mux: sm})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, s := range []*Session{e.client, e.server} {
		wg.Go(func() { // takes steps towards rest all the time
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
					s.beat()
				}
			}
		})
	}
	var dials sync.WaitGroup
	for _, d := range []struct {
		s    *Session
		name string
	}{{e.client, "cloud"}, {e.server, "device"}} {
		dials.Go(func() {
			for i := range 100 {
				time.Sleep(time.Duration(i%7) * time.Millisecond)
				conn, err := d.s.Dial(t.Context(), d.name)
				if err != nil {
					t.Errorf("dial %d of %s: %v", i, d.name, err)
					return
				}
				if _, err := conn.Write([]byte("x")); err != nil {
					t.Errorf("write %d of %s: %v", i, d.name, err)
				}
				if _, err := conn.Read(make([]byte, 1)); err != nil {
					t.Errorf("read %d of %s: %v", i, d.name, err)
				}
				_ = conn.Close()
			}
		})
	}
	dials.Wait()
	close(stop)
	wg.Wait()
}

// The frames' reader hands on what is no ping, whole, wherever reads are cut.
func TestPingsAreTakenOutOfTheStream(t *testing.T) {
	data := append(frame(frameData, 0, 1, 5), "12345"...)
	window := frame(frameWindow, flagSYN, 3, 0)
	ping, pong := frame(framePing, flagSYN, 0, 7), frame(framePing, flagACK, 0, 9)
	var all, want []byte
	for _, f := range [][]byte{ping, data, pong, window, ping, ping, data, pong} {
		all = append(all, f...)
		if f[1] != framePing {
			want = append(want, f...)
		}
	}
	for _, size := range []int{1, 5, 13, 20, 100, 4096} {
		for cut := range all {
			a, b := net.Pipe()
			go func() {
				_, _ = a.Write(all[:cut])
				_, _ = a.Write(all[cut:])
				_ = a.Close()
			}()
			c := newFrameConn(b, newLimitedConn(b), b)
			c.mayPark = func(bool) bool { return false }
			var got []byte
			for {
				p := make([]byte, size)
				n, err := c.Read(p)
				got = append(got, p[:n]...)
				if err != nil {
					break
				}
			}
			if string(got) != string(want) || c.ponged.Load() != 9 {
				t.Fatalf("reads of %d, cut at %d: %x, want %x; ponged %d", size, cut, got, want, c.ponged.Load())
			}
			_ = b.Close()
			_ = c.Close()
		}
	}
}

// What came before both ends of a stream had closed it may be read at any time,
// and then comes its end, although the session rests.
func TestATailIsReadAfterTheSessionRests(t *testing.T) {
	restBubble(t, func(t *testing.T, e ends) {
		st, err := dialIn(t, e)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := st.Write([]byte("tail")); err != nil {
			t.Fatal(err)
		}
		_ = st.(*Stream).CloseWrite()
		time.Sleep(10 * time.Minute)
		if !resting(e.client) {
			t.Fatal("does not rest")
		}
		_ = st.SetReadDeadline(time.Now().Add(time.Minute))
		time.AfterFunc(2*time.Minute, func() { _ = e.client.Close() }) // what waits for the session's end gets it
		if b, err := io.ReadAll(st); string(b) != "tail" || err != nil {
			t.Errorf("%q, %v", b, err)
		}
	})
}

// What breaks the protocol does so behind a good frame too, with a mux and at rest.
func TestABadFrameBehindAGoodOneEndsTheSession(t *testing.T) {
	for _, rest := range []time.Duration{0, 10 * time.Minute} {
		restBubble(t, func(t *testing.T, e ends) {
			if rest == 0 {
				if _, err := dialIn(t, e); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(rest)
			synctest.Wait()
			bad := append(frame(frameWindow, 0, 1, 0), frame(frameWindow, flagSYN, 2, 0)...) // a stream of the server's
			e.client.frames.cutIn(append(bad, frame(frameWindow, 0, 1, 0)...))
			synctest.Wait()
			if err := e.server.Err(); !errors.Is(err, errStreamID) {
				t.Errorf("after %s: %v", rest, err)
			}
		})
	}
}

// stuckTLS is inner TLS that answers a peer who takes nothing, with a new key or
// an alert: neither Read nor Close returns before the carrier is closed.
type stuckTLS struct {
	net.Conn
	closed <-chan struct{}
}

func (c stuckTLS) Read([]byte) (int, error) {
	<-c.closed
	return 0, net.ErrClosed
}

func (c stuckTLS) Close() error {
	<-c.closed
	return nil
}

// A peer that takes nothing holds up neither its own end nor that of the server.
func TestASessionThatIsStuckAtRestEnds(t *testing.T) {
	for name, end := range map[string]func(*testing.T, *Session){
		"dead": func(t *testing.T, s *Session) {
			start := time.Now()
			<-s.Done()
			if d := time.Since(start); !errors.Is(s.Err(), ErrDead) || d > 75*time.Second {
				t.Errorf("%v after %s", s.Err(), d)
			}
		},
		"closed": func(t *testing.T, s *Session) {
			start := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_ = s.CloseBye(ctx, 0, "away")
			if d := time.Since(start); d > 10*time.Second {
				t.Errorf("Close took %s", d)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			fakeTime(t, func(t *testing.T) {
				a, b := net.Pipe()
				link := newCountingConn(b)
				e := connect(t, newArrivingConn(a), newArrivingConn(link), nil, nil)
				time.Sleep(10 * time.Minute)
				e.server.mux.mu.Lock()
				e.server.frames.tx.Lock()
				e.server.frames.conn = stuckTLS{e.server.frames.conn, link.closed}
				e.server.frames.tx.Unlock()
				e.server.mux.mu.Unlock()
				e.client.frames.ping(0)
				synctest.Wait()
				if e.server.Busy() {
					t.Error("is busy")
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if _, err := e.server.Dial(ctx, "none"); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("dial: %v", err)
				}
				end(t, e.server)
			})
		})
	}
}

// What a peer has said about new streams holds after a rest too.
func TestAGoAwayOutlivesTheMux(t *testing.T) {
	restBubble(t, func(t *testing.T, e ends) {
		for range 2 {
			e.client.frames.cutIn(frame(frameGoAway, 0, 0, 0))
			time.Sleep(10 * time.Minute)
			if !resting(e.server) {
				t.Fatal("does not rest")
			}
			if _, err := e.server.Dial(t.Context(), "any"); !errors.Is(err, ErrDraining) {
				t.Errorf("dial: %v", err)
			}
		}
		if st, err := e.client.Dial(t.Context(), "echo"); err != nil { // the other direction goes on
			t.Error(err)
		} else {
			_ = st.Close()
		}
	})
}

// What waits in yamux to be sent would be lost with it.
func TestNoRestWhileSomethingWaitsToBeSent(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		a, b := net.Pipe()
		link := newCountingConn(b)
		mux := new(Mux)
		echo(t, mux, "echo")
		e := connect(t, newArrivingConn(a), newArrivingConn(link), nil, &Config{Mux: mux})
		st, err := dialIn(t, e)
		if err != nil {
			t.Fatal(err)
		}
		_ = st.Close()
		for range 4 { // in which a ping is answered
			synctest.Wait()
			time.Sleep(2 * time.Second)
		}
		release := link.hold()
		e.server.frames.ping(0) // is being sent
		synctest.Wait()
		e.server.frames.ping(0) // waits
		e.server.beat()
		synctest.Wait()
		if resting(e.server) {
			t.Error("rests with something to send")
		}
		release()
		time.Sleep(10 * time.Minute)
		if !resting(e.server) {
			t.Error("does not rest")
		}
	})
}
