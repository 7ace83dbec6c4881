package server_test

import (
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/atls-ws/atls-ws/server"
)

func TestSealedKeysOfAnotherSessionAndExpiredOnes(t *testing.T) {
	s := newSealedSite(t, &server.Config{KeyLifetime: time.Nanosecond})
	if _, _, err := s.do(nil, http.MethodPost, "/echo", "x"); problem(err) != "403 no-key" {
		t.Errorf("expired: %v", err)
	}
	s = newSealedSite(t, &server.Config{})
	other := newSealedSite(t, &server.Config{})
	s.sess = other.sess
	if _, _, err := s.do(nil, http.MethodPost, "/echo", "x"); problem(err) != "403 no-key" {
		t.Errorf("another server's: %v", err)
	}
}

func TestSealedKeysOutliveTheSessionAndAreRenewedWhileItLasts(t *testing.T) {
	s := newSealedSite(t, &server.Config{KeyLifetime: 300 * time.Millisecond})
	for range 20 { // two lifetimes
		if _, _, err := s.do(nil, http.MethodPost, "/echo", "x"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Millisecond)
	}
	s = newSealedSite(t, &server.Config{})
	_ = s.sess.Close()
	if _, _, err := s.do(nil, http.MethodPost, "/echo", "x"); err != nil {
		t.Errorf("after the session's end: %v", err)
	}
}

func TestMemoryKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, m := t.Context(), server.NewMemoryKeys(2)
		put := func(id string) {
			if err := m.Put(ctx, &server.SealedKey{ID: id, Expires: time.Now().Add(time.Minute)}); err != nil {
				t.Fatal(err)
			}
		}
		put("a")
		for _, c := range []struct {
			counter uint64
			ok      bool
		}{
			{0, false}, {1, true}, {1, false}, {3, true}, {2, true}, {2, false}, {1000, true}, {4, true}, {4, false},
			{1026, true}, {2, false}, {3, false}, {5, true}, {5, false}, {1 << 40, true}, {1026, false}, {1<<40 - 1024, false}, {1<<40 - 1023, true},
			{1<<64 - 1, true}, {1<<64 - 1, false},
		} {
			if err := m.Use(ctx, "a", c.counter); (err == nil) != c.ok || err != nil && !errors.Is(err, server.ErrReplayed) {
				t.Errorf("counter %d: %v", c.counter, err)
			}
		}
		put("b")
		put("a") // again: it moves to the end, and keeps its counters
		if err := m.Use(ctx, "a", 1<<64-1); !errors.Is(err, server.ErrReplayed) {
			t.Error(err)
		}
		put("c")
		if _, err := m.Get(ctx, "b"); !errors.Is(err, server.ErrNoKey) {
			t.Errorf("one too many: %v", err)
		}
		if _, err := m.Get(ctx, "a"); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		if _, err := m.Get(ctx, "a"); !errors.Is(err, server.ErrNoKey) {
			t.Errorf("expired: %v", err)
		}
		if err := m.Use(ctx, "c", 1); !errors.Is(err, server.ErrNoKey) {
			t.Errorf("expired: %v", err)
		}
	})
}
