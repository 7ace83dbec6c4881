package server_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/server"
)

func TestAuthorizeServiceIsATypedRefusal(t *testing.T) {
	mux := new(server.Mux)
	l, err := mux.Listen("allowed")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	s := newSite(t, &server.Config{
		Mux:     mux,
		Handler: http.NotFoundHandler(),
		AuthorizeService: func(ctx context.Context, device, service string) error {
			if sess, ok := server.FromContext(ctx); ok && sess.Device() != device {
				t.Errorf("the context is of %s", sess.Device())
			}
			if state, ok := server.ConnectionState(ctx); !ok || len(state.PeerCertificates) == 0 {
				t.Error("no certificate in the context")
			}
			switch service {
			case "allowed":
				return nil
			case "busy":
				return &server.RefusedError{Code: server.Busy, Text: "later"}
			}
			return errors.New("not for " + device)
		},
	})
	sess, err := client.Dial(t.Context(), s.config(t, "meter-1"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sess.Close() }()
	conn, err := sess.Dial(t.Context(), "allowed")
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	for service, want := range map[string]client.RefusedError{
		"absent": {Code: client.NotAllowed, Text: "not for meter-1"}, // nobody learns that nobody listens
		"http":   {Code: client.NotAllowed, Text: "not for meter-1"},
		"busy":   {Code: client.Busy, Text: "later"},
	} {
		var refused *client.RefusedError
		if _, err := sess.Dial(t.Context(), service); !errors.As(err, &refused) || *refused != want {
			t.Errorf("%s: %v, want %v", service, err, &want)
		}
	}
	// A peer without streams gets the refusal as an answer.
	inner := s.httpPeer(t, carriers["websocket"](t, s), "meter-2")
	_, _ = io.WriteString(inner, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(inner), nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, _ := io.ReadAll(io.LimitReader(resp.Body, 100)); resp.StatusCode != http.StatusForbidden || !strings.Contains(string(body), "not for meter-2") {
		t.Errorf("%s %q", resp.Status, body)
	}
	_ = inner.Close()
}

func TestRegistryWaitsForADevice(t *testing.T) {
	s := newSite(t, &server.Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := s.srv.Registry().Wait(ctx, "meter-1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a device that does not come: %v", err)
	}
	type result struct {
		sess *server.Session
		err  error
	}
	got := make(chan result, 2)
	for range 2 {
		go func() {
			sess, err := s.srv.Registry().Wait(t.Context(), "meter-1")
			got <- result{sess, err}
		}()
	}
	sess, err := client.Dial(t.Context(), s.config(t, "meter-1"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sess.Close() }()
	for range 2 {
		if r := <-got; r.err != nil || r.sess.ID() != sess.ID() {
			t.Errorf("%+v", r)
		}
	}
	if r, err := s.srv.Registry().Wait(t.Context(), "meter-1"); err != nil || r.ID() != sess.ID() {
		t.Errorf("a device that is there: %v", err)
	}
}

// What breaks on one side breaks on the other too, and is no orderly end.
func TestSpliceResetsTCPForABrokenStream(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	ours, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ours.Close() }()
	theirs, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	mux := new(client.Mux)
	service, err := mux.Listen("part")
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t, &server.Config{})
	cfg := s.config(t, "meter-1")
	cfg.Mux = mux
	sess, err := client.Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sess.Close() }()
	if _, err := s.srv.Registry().Wait(t.Context(), "meter-1"); err != nil {
		t.Fatal(err)
	}
	stream, err := s.srv.DialDevice(t.Context(), "meter-1", "part")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Splice(theirs, stream) }()
	far, err := service.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_, _ = far.Write([]byte("half of it"))
	if _, err := io.ReadFull(ours, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	far.(*client.Stream).Reset()
	if _, err := ours.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("read: %v, want a reset", err)
	}
	if err := <-done; err == nil {
		t.Error("Splice says that it was an orderly end")
	}
	_ = service.Close()
}
