package server_test

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/server"
)

func TestShutdownAsksDevicesWithStreamsLast(t *testing.T) {
	s := newSite(t, &server.Config{})
	busyConfig := s.config(t, "busy")
	l, err := busyConfig.Mux.Listen("x")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	busy, idle := s.dial(t, busyConfig), s.dial(t, s.config(t, "idle"))
	stream, err := s.srv.DialDevice(t.Context(), "busy", "x")
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var down sync.WaitGroup
	down.Go(func() {
		if err := s.srv.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	<-idle.Drained()
	select {
	case <-busy.Drained():
		t.Error("a device was asked to go while its stream was open")
	default:
	}
	// Meanwhile it is told to whoever looks, and sessions work on.
	req, _ := http.NewRequestWithContext(ctx, http.MethodHead, s.web.URL, nil)
	if resp, err := s.web.Client().Do(req); err != nil || resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("%v, %v", resp, err)
	} else {
		_ = resp.Body.Close()
	}
	_, _ = stream.Close(), theirs.Close()
	<-busy.Drained()
	for _, sess := range []*client.Session{busy, idle} {
		_ = sess.Close()
	}
	down.Wait()
}
