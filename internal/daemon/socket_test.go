package daemon

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSocketIsForItsOwnerOnly(t *testing.T) {
	dir := shortDir(t)
	path := filepath.Join(dir, "new", "admin.sock")
	s := must[*socket](t)(listenSocket(t.Context(), path))
	for file, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
		if mode := must[os.FileInfo](t)(os.Lstat(file)).Mode().Perm(); mode != want {
			t.Errorf("%s has mode %o, want %o", file, mode, want)
		}
	}
	if left := must[[]os.DirEntry](t)(os.ReadDir(filepath.Dir(path))); len(left) != 1 {
		t.Errorf("beside the socket: %v", left)
	}
	_ = must[net.Conn](t)(net.Dial("unix", path)).Close()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("the socket is left after Close")
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(shortDir(t), "admin.sock")
	dead := must[net.Listener](t)(net.Listen("unix", path))
	dead.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = dead.Close()
	s := must[*socket](t)(listenSocket(t.Context(), path))
	defer func() { _ = s.Close() }()
	_ = must[net.Conn](t)(net.Dial("unix", path)).Close()
}

func TestWhatIsThereIsNotReplaced(t *testing.T) {
	dir := shortDir(t)
	live, file := filepath.Join(dir, "live"), filepath.Join(dir, "file")
	l := must[net.Listener](t)(net.Listen("unix", live))
	defer func() { _ = l.Close() }()
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, words := range map[string]string{
		live: "another server answers", file: "not a socket",
		filepath.Join(file, "x"): "not a directory", filepath.Join(dir, strings.Repeat("x", 110)): "", filepath.Join(dir, strings.Repeat("y", 100), "s"): "too long",
	} {
		s, err := listenSocket(t.Context(), path)
		if words == "" { // only the final name is long: the kernel takes it, a client could not
			words = "too long"
		}
		var se *StartError
		if err == nil {
			_ = s.Close()
		}
		if !errors.As(err, &se) || !strings.Contains(err.Error(), words) || se.Next() == "" {
			t.Errorf("%s: %v, want %q", path, err, words)
		}
	}
	if b := must[[]byte](t)(os.ReadFile(file)); string(b) != "precious" {
		t.Error("a file was replaced")
	}
}

func TestCloseLeavesTheSocketOfAnother(t *testing.T) {
	path := filepath.Join(shortDir(t), "admin.sock")
	old := must[*socket](t)(listenSocket(t.Context(), path))
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	s := must[*socket](t)(listenSocket(t.Context(), path))
	defer func() { _ = s.Close() }()
	_ = old.Close()
	_ = must[net.Conn](t)(net.Dial("unix", path)).Close()
}
