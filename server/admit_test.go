package server_test

import (
	"context"
	"crypto/tls"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/server"
)

func TestAdmitKeepsDevicesAwayAndRecheckEndsThem(t *testing.T) {
	var denied atomic.Pointer[string]
	s := newSite(t, &server.Config{Admit: func(device string, state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 {
			t.Error("no certificate")
		}
		if d := denied.Load(); d != nil && *d == device {
			return errors.New("not you")
		}
		return nil
	}})
	a, b := s.dial(t, s.config(t, "a")), s.dial(t, s.config(t, "b"))
	name := "a"
	denied.Store(&name)
	s.srv.Recheck()
	select {
	case <-a.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("the session goes on")
	}
	refused := (*client.RefusedError)(nil)
	if !errors.As(a.Err(), &refused) || refused.Code != client.NotAllowed || refused.Text != "not you" {
		t.Errorf("the device hears %v", a.Err())
	}
	if _, err := client.Dial(t.Context(), s.config(t, "a")); !errors.As(err, &refused) || refused.Code != client.NotAllowed {
		t.Errorf("it comes back: %v", err)
	}
	if b.Err() != nil {
		t.Errorf("the other: %v", b.Err())
	}
}

func TestDisconnectTellsTheDevice(t *testing.T) {
	s := newSite(t, &server.Config{})
	a := s.dial(t, s.config(t, "a"))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := s.srv.Registry().Wait(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if n := s.srv.Disconnect(ctx, "a", "come again"); n != 1 {
		t.Errorf("%d sessions", n)
	}
	if <-a.Done(); !strings.Contains(a.Err().Error(), "come again") {
		t.Errorf("the device hears %v", a.Err())
	}
	if n := s.srv.Disconnect(ctx, "b", ""); n != 0 {
		t.Errorf("%d sessions of nobody", n)
	}
}
