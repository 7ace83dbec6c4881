package session

import (
	"context"
	"errors"
	"testing"
)

func TestQueuedSignalIsHandledOnceOverSessionsAndRestarts(t *testing.T) {
	handled := 0
	m := new(Mux)
	m.OnSignal("x", func(context.Context, Signal) (string, error) { handled++; return "done", nil })
	m.OnSignal("bad", func(context.Context, Signal) (string, error) { handled++; return "", errors.New("no") })
	var saved Position
	save := func(p Position) error { saved = p; return nil }
	session := func(a *Applied, queue string) *Session {
		c, s := tcpPipe(t)
		return connect(t, c, s, &Config{Mux: m, Applied: a}, &Config{Queue: queue}).server
	}
	send := func(s *Session, name string, seq uint64, want string) {
		t.Helper()
		reply, err := s.Signal(t.Context(), Signal{Name: name, Seq: seq})
		if err != nil {
			reply = err.Error()
		}
		if reply != want {
			t.Errorf("seq %d: %q, want %q", seq, reply, want)
		}
	}
	a := NewApplied(Position{}, save)
	s := session(a, "q1")
	send(s, "x", 0, "done") // not of the queue
	send(s, "x", 4, "done")
	send(s, "bad", 5, "refused: no") // a refusal is an answer: it does not come again
	s = session(a, "q1")
	send(s, "x", 5, "handled before")
	send(s, "x", 6, "done")
	if saved != (Position{Queue: "q1", Seq: 6}) || handled != 4 {
		t.Errorf("saved %+v, handled %d", saved, handled)
	}
	s = session(NewApplied(saved, save), "q1") // after a restart
	if p := s.Hello().Applied; p == nil || *p != saved {
		t.Errorf("hello says %+v", p)
	}
	send(s, "x", 6, "handled before")
	s = session(NewApplied(saved, save), "q2") // the server's queue is another
	send(s, "x", 1, "done")
	if saved != (Position{Queue: "q2", Seq: 1}) {
		t.Errorf("saved %+v", saved)
	}
}

func TestSignalThatItsSessionCutsShortComesAgain(t *testing.T) {
	m := new(Mux)
	began := make(chan struct{}, 1)
	m.OnSignal("x", func(ctx context.Context, _ Signal) (string, error) {
		began <- struct{}{}
		<-ctx.Done()
		return "", ctx.Err()
	})
	a := NewApplied(Position{}, nil)
	c, s := tcpPipe(t)
	e := connect(t, c, s, &Config{Mux: m, Applied: a}, &Config{Queue: "q"})
	go func() { <-began; _ = e.client.Close() }()
	if _, err := e.server.Signal(t.Context(), Signal{Name: "x", Seq: 1}); err == nil {
		t.Error("acked")
	}
	m.OnSignal("x", func(context.Context, Signal) (string, error) { return "done", nil })
	c, s = tcpPipe(t)
	e = connect(t, c, s, &Config{Mux: m, Applied: a}, &Config{Queue: "q"})
	if reply, err := e.server.Signal(t.Context(), Signal{Name: "x", Seq: 1}); reply != "done" || err != nil {
		t.Errorf("%q, %v", reply, err)
	}
}
