package postconn

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestServerEndsWhatIsNotUsed(t *testing.T) {
	for _, tt := range []struct {
		name        string
		established bool
		polling     bool
		lives       time.Duration // 0 is for long
	}{
		{"not established", false, true, readyTimeout},
		{"no requests", true, false, idleTimeout},
		{"polling", true, true, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, tt.established, func(t *testing.T, d *direct, _ *Handler, conns <-chan *Conn) {
				c := d.dial()
				_, _ = c.Write([]byte("x"))
				begin := time.Now()
				s := <-conns
				read := make(chan error, 1)
				if tt.polling {
					go func() {
						_, err := c.Read(make([]byte, 1))
						read <- err
					}()
				}
				_, _ = s.Read(make([]byte, 1))
				_ = s.SetReadDeadline(time.Now().Add(time.Hour))
				_, err := s.Read(make([]byte, 1))
				if tt.lives == 0 {
					if err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
						t.Errorf("after %s: %v", time.Since(begin), err)
					}
					if d.polls < 175 || d.polls > 200 {
						t.Errorf("%d polls in an hour", d.polls)
					}
				} else if took := time.Since(begin).Round(time.Second); took != tt.lives || !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("after %s: %v", took, err)
				}
				var ae *AnswerError
				if !tt.established {
					if err := <-read; !errors.As(err, &ae) || ae.StatusCode != 404 {
						t.Errorf("client: %v", err)
					}
				}
				_ = c.Close()
			})
		})
	}
}

// pipes is a listener of net.Pipes.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p pipes) Close() error { return nil }

// TestABodyThatDoesNotComeIsAnswered and its connection closed, in time: net/http
// reads what a handler leaves of a body.
func TestABodyThatDoesNotComeIsAnswered(t *testing.T) {
	for _, length := range []string{"Content-Length: 100", "Transfer-Encoding: chunked"} {
		t.Run(length, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := NewHandler(&HandlerOptions{Accept: func(*Conn, *http.Request) { t.Error("accepted") }})
				a, b := net.Pipe()
				l := make(pipes, 1)
				l <- b
				srv := http.Server{Handler: h}
				var serving sync.WaitGroup
				serving.Go(func() { _ = srv.Serve(l) })
				go func() {
					_, _ = io.WriteString(a, "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/atls\r\n"+length+"\r\n\r\n1")
				}()
				begin := time.Now()
				got, err := io.ReadAll(a) // to the end of the connection
				if took := time.Since(begin); took > bodyTimeout+time.Second || !strings.HasPrefix(string(got), "HTTP/1.1 400 ") {
					t.Errorf("after %s: %q, %v", took, got, err)
				}
				close(l)
				_ = a.Close()
				_ = srv.Close()
				_ = h.Close()
				serving.Wait()
			})
		})
	}
}

func TestBytesOfAClosedConnAreKeptForLaterRequests(t *testing.T) {
	inBubble(t, true, func(t *testing.T, d *direct, h *Handler, conns <-chan *Conn) {
		c := d.dial()
		_, _ = c.Write([]byte("x"))
		s := <-conns
		synctest.Wait()
		want := bytes.Repeat([]byte("0123456789"), 10_000)
		_, _ = s.Write(want)
		begin := time.Now()
		_ = s.Close()
		if d := time.Since(begin); d != 0 {
			t.Errorf("close without a request took %s", d)
		}
		time.Sleep(100 * time.Second) // of fake time
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		_ = c.Close()

		c = d.dial()
		_, _ = c.Write([]byte("x"))
		s = <-conns
		synctest.Wait()
		_, _ = s.Write(want)
		_ = s.Close()
		time.Sleep(idleTimeout + time.Second)
		var ae *AnswerError
		if _, err := c.Read(make([]byte, 1)); !errors.As(err, &ae) || ae.StatusCode != 404 {
			t.Errorf("after the idle bound: %v", err)
		}
		_ = c.Close()
		h.mu.Lock()
		defer h.mu.Unlock()
		if len(h.conns) != 0 {
			t.Errorf("%d connections are left", len(h.conns))
		}
	})
}

func TestTombstoneAnswersForAWhile(t *testing.T) {
	inBubble(t, true, func(t *testing.T, d *direct, _ *Handler, conns <-chan *Conn) {
		c := d.dial()
		_, _ = c.Write([]byte("x"))
		s := <-conns
		synctest.Wait()
		p := c.role.(*poster)
		last := &posting{head: head{locator: p.locator, offset: 1, fin: true}}
		for range 2 {
			a, err := p.post(last)
			if err != nil {
				t.Fatal(err)
			}
			if !a.fin || a.ack != 1 || len(a.body) != 0 {
				t.Errorf("%+v", a.head)
			}
			a.release()
			time.Sleep(graveTimeout - time.Second)
		}
		_, _ = s.Read(make([]byte, 1))
		if _, err := s.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("server: %v", err)
		}
		time.Sleep(2 * time.Second)
		if _, err := p.post(last); err == nil || err.StatusCode != 404 {
			t.Errorf("later: %v", err)
		}
		_ = c.Close()
	})
}

func TestNewerPollReleasesTheOlder(t *testing.T) {
	inBubble(t, true, func(t *testing.T, d *direct, _ *Handler, conns <-chan *Conn) {
		c := d.dial()
		_, _ = c.Write([]byte("x"))
		s := <-conns
		synctest.Wait()
		p := c.role.(*poster)
		poll := func() *posted {
			a, err := p.post(&posting{head: head{locator: p.locator, offset: 1, poll: true, wait: maxHold}})
			if err != nil {
				t.Error(err)
			}
			return a
		}
		first, second := make(chan *posted), make(chan *posted)
		go func() { first <- poll() }()
		synctest.Wait()
		begin := time.Now()
		go func() { second <- poll() }()
		if a := <-first; len(a.body) != 0 || time.Since(begin) != 0 {
			t.Errorf("older: %q after %s", a.body, time.Since(begin))
		}
		_, _ = s.Write([]byte("y"))
		if a := <-second; string(a.body) != "y" {
			t.Errorf("newer: %q", a.body)
		}
		// Its answer was lost: the same again.
		if a := poll(); string(a.body) != "y" {
			t.Errorf("repeated: %q", a.body)
		}
		_ = c.Close()
	})
}

func TestHandlerCloseEndsEverything(t *testing.T) {
	inBubble(t, true, func(t *testing.T, d *direct, h *Handler, conns <-chan *Conn) {
		c := d.dial()
		_, _ = c.Write([]byte("x"))
		s := <-conns
		go func() { <-time.After(time.Second); _ = h.Close() }()
		_, err := io.ReadAll(c)
		var ae *AnswerError
		if !errors.As(err, &ae) || ae.StatusCode != 404 {
			t.Errorf("client: %v", err)
		}
		if _, err := io.ReadAll(s); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("server: %v", err)
		}
		_ = c.Close()
		c = d.dial()
		_, _ = c.Write([]byte("x"))
		if _, err := c.Read(make([]byte, 1)); !errors.As(err, &ae) || ae.StatusCode != 503 || ae.RetryAfter != fullRetry {
			t.Errorf("a new one: %v", err)
		}
		_ = c.Close()
	})
}
