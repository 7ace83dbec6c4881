package expose

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/leak"
	"github.com/atls-ws/atls-ws/internal/session"
)

// quiet are the options of a test that looks at no log.
var quiet = Options{Logger: slog.New(slog.DiscardHandler)}

func TestMain(m *testing.M) { leak.Main(m) }

func TestStartSaysWhichServiceIsWrong(t *testing.T) {
	for name, target := range map[string]string{"web": "ftp://h:1", "signals": "tcp://h:1", "a b": "tcp://h:1"} {
		s, err := Start(new(session.Mux), map[string]string{name: target}, quiet)
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "service "+name) {
			t.Errorf("%s=%s: %v", name, target, err)
		}
	}
}

func TestCloseFreesTheNames(t *testing.T) {
	mux := new(session.Mux)
	s, err := Start(mux, map[string]string{"a": "tcp://127.0.0.1:1", "b": "unix:///nonexistent"}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(mux.Services(), " "); got != "a b" {
		t.Errorf("services %q", got)
	}
	s.Close()
	if got := mux.Services(); len(got) != 0 {
		t.Errorf("services %q after Close", got)
	}
}

// testListener accepts what a test hands it.
type testListener struct {
	conns chan net.Conn
	done  chan struct{}
}

func (l testListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l testListener) Close() error   { close(l.done); return nil }
func (l testListener) Addr() net.Addr { return &net.TCPAddr{} }

func TestSetChangesOnlyWhatIsDifferent(t *testing.T) {
	mux := new(session.Mux)
	s, err := Start(mux, map[string]string{"stays": "tcp://127.0.0.1:1", "moves": "tcp://127.0.0.1:1", "goes": "tcp://127.0.0.1:1"}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	stays, moves := s.offered["stays"].listener, s.offered["moves"].listener
	if err := s.Set(map[string]string{"stays": "tcp://127.0.0.1:1", "moves": "tcp://127.0.0.1:2", "comes": "udp://127.0.0.1:1"}); err != nil {
		t.Fatal(err)
	}
	if got, want := mux.Services(), []string{"comes", "moves", "stays"}; !slices.Equal(got, want) {
		t.Errorf("services %q, want %q", got, want)
	}
	if s.offered["stays"].listener != stays || s.offered["moves"].listener == moves {
		t.Error("the unchanged service was touched, or the changed one not")
	}
	taken, err := mux.Listen("taken")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	if err := s.Set(map[string]string{"new": "tcp://127.0.0.1:1", "taken": "tcp://127.0.0.1:1"}); err == nil {
		t.Error("a name that is taken was offered")
	}
	if got, want := mux.Services(), []string{"comes", "moves", "stays", "taken"}; !slices.Equal(got, want) {
		t.Errorf("services after an error %q, want %q", got, want)
	}
}

func TestCloseEndsConnectionsInUse(t *testing.T) {
	target, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = target.Close() }()
	s, err := Start(new(session.Mux), nil, quiet)
	if err != nil {
		t.Fatal(err)
	}
	l := testListener{make(chan net.Conn), make(chan struct{})}
	s.offered["x"] = offer{listener: l}
	s.wg.Go(func() { s.accept(l, "x", mustTarget(t, "tcp://"+target.Addr().String())) })
	ours, theirs := net.Pipe()
	l.conns <- theirs
	_, _ = ours.Write([]byte("ping"))
	to, err := target.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = to.Close() }()
	if _, err := io.ReadFull(to, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := ours.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is open after Close")
	}
}

func mustTarget(t *testing.T, s string) config.Target {
	t.Helper()
	target, err := config.ParseTarget(s)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

func TestTargetThatDoesNotAnswerEndsTheConnection(t *testing.T) {
	var log bytes.Buffer
	s, err := Start(new(session.Mux), nil, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := net.Pipe()
	s.serve(theirs, "x", mustTarget(t, "unix:///nonexistent/socket"))
	if _, err := ours.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("read: %v", err)
	}
	s.Close()
	if !strings.Contains(log.String(), "service does not answer") {
		t.Errorf("log %q", log.String())
	}
}
