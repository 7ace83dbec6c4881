package daemon

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/daemon/fleet"
	"github.com/atls-ws/atls-ws/internal/statedir"
)

// OPERATIONS.md tells an operator to do just this.
func TestBackupIsRestored(t *testing.T) {
	s := start(t, nil)
	push := func(name string) {
		t.Helper()
		if o, err := s.admin.Push(t.Context(), &admin.Push{Device: "d-1", Name: name, Timeout: time.Minute}); err != nil || o.State != admin.Queued {
			t.Fatal(o, err)
		}
	}
	push("before")
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	backup := filepath.Join(shortDir(t), "backup")
	if err := os.CopyFS(backup, os.DirFS(s.cfg.Data)); err != nil {
		t.Fatal(err)
	}
	s.again()
	push("after")
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}

	if err := os.RemoveAll(s.cfg.Data); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(s.cfg.Data, os.DirFS(backup)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(s.cfg.Data, "queue.json")); err != nil {
		t.Fatal(err)
	}
	s.again()
	got := make(chan string, 8)
	mux := new(client.Mux)
	mux.OnSignal(client.AnySignal, func(_ context.Context, sig client.Signal) (string, error) { got <- sig.Name; return "", nil })
	s.connect("d-1", mux)
	if name := <-got; name != "before" {
		t.Errorf("the device got %q", name)
	}
	push2, err := s.admin.Push(t.Context(), &admin.Push{Device: "d-1", Name: "new", Timeout: time.Minute})
	if err != nil || push2.State != admin.Acked {
		t.Errorf("a new signal after the restore: %+v, %v", push2, err)
	}
	if name := <-got; name != "new" {
		t.Errorf("the device got %q", name)
	}
}

// The same while the server runs, with what is written meanwhile left out.
func TestLiveBackupIsRestored(t *testing.T) {
	s := start(t, nil)
	for _, name := range []string{"one", "two"} {
		data := make([]byte, 50<<10) // so that there is more than one chunk
		if _, err := s.admin.Push(t.Context(), &admin.Push{Device: "d-1", Name: name, Data: data, Timeout: time.Minute}); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(shortDir(t), "backup")
	body := must[io.ReadCloser](t)(s.admin.Backup(t.Context()))
	data := must[[]byte](t)(io.ReadAll(body))
	if err := body.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data[:len(data)/2], 0o600); err != nil || fleet.CheckBackup(file) == nil {
		t.Errorf("half a backup is whole: %v", err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil || fleet.CheckBackup(file) != nil {
		t.Fatalf("%v, %v", err, fleet.CheckBackup(file))
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(&s.log, nil))
	if err := fleet.Restore(t.Context(), file, s.cfg.Data, log); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("over what is there: %v", err)
	}
	if err := os.RemoveAll(s.cfg.Data); err != nil {
		t.Fatal(err)
	}
	if err := fleet.Restore(t.Context(), file, s.cfg.Data, log); err != nil {
		t.Fatal(err)
	}
	s.again()
	s.log.match(t, "the queues begin a new incarnation")
	got := make(chan string, 8)
	mux := new(client.Mux)
	mux.OnSignal(client.AnySignal, func(_ context.Context, sig client.Signal) (string, error) { got <- sig.Name; return "", nil })
	s.connect("d-1", mux)
	for _, want := range []string{"one", "two"} {
		if name := <-got; name != want {
			t.Errorf("the device got %q, want %q", name, want)
		}
	}
	if all := must[[]admin.Signal](t)(s.admin.Signals(t.Context(), 50)); len(all) != 2 {
		t.Errorf("%d sends are known", len(all))
	}
}

func TestDataOfANewerVersionIsLeftAlone(t *testing.T) {
	s := start(t, nil)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(s.cfg.Data, statedir.File)
	if data, err := os.ReadFile(path); err != nil || string(data) != "1\n" {
		t.Fatalf("%q, %v", data, err)
	}
	if err := os.WriteFile(path, []byte("2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := Run(t.Context(), s.cfg, Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err == nil || !strings.Contains(err.Error(), "was written by a newer atls-ws: its format is 2") {
		t.Error(err)
	}
}
