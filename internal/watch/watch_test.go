package watch

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestChangeIsToldOnceTheFilesHaveSettled(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		write(cert, "a")
		ask := make(chan struct{})
		var mu sync.Mutex
		var calls []bool
		note := func(asked bool) {
			mu.Lock()
			defer mu.Unlock()
			calls = append(calls, asked)
		}
		f := &Files{Paths: func() []string { return []string{"", cert, key} }, Every: time.Second, Ask: ask, Changed: note}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { f.Run(ctx); close(done) }()
		pass := func(d time.Duration, want int) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if len(calls) != want {
				t.Fatalf("told %d times, want %d", len(calls), want)
			}
		}
		pass(5500*time.Millisecond, 0)
		write(cert, "bb")
		pass(time.Second, 0) // it may still be written to
		write(key, "kk")     // a file that was not there
		pass(time.Second, 0)
		pass(time.Second, 1)
		pass(5*time.Second, 1)
		ask <- struct{}{}
		pass(0, 2)
		if err := os.Remove(key); err != nil {
			t.Fatal(err)
		}
		pass(2*time.Second, 3)
		cancel()
		<-done
		if calls[0] || !calls[1] || calls[2] {
			t.Errorf("asked: %v", calls)
		}
	})
}
