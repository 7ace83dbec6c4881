//go:build unix

package admin

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Who comes first to a temporary folder must not answer in the daemon's place.
func TestADefaultFolderOfAnotherUserIsNotUsed(t *testing.T) {
	dir, err := os.MkdirTemp("", "owner-")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.Chmod(dir, 0o777); err != nil { // as a temporary folder is
		t.Fatal(err)
	}
	theirs := filepath.Join(dir, "theirs")
	if err := os.Mkdir(theirs, 0o777); err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_RUNTIME_DIR", dir)
	// A link is another's way to have the folder be one of theirs; it needs no root to test.
	if err := os.Symlink(theirs, filepath.Join(dir, "atls-ws")); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", DefaultPath())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if _, err := NewClient("").Devices(t.Context()); err == nil || !strings.Contains(err.Error(), "another user") {
		t.Errorf("the client: %v", err)
	}
	if err := CheckOwner(filepath.Join(theirs, "admin.sock")); err != nil {
		t.Errorf("a path that was asked for: %v", err)
	}
	if os.Geteuid() != 0 {
		return
	}
	_ = os.Remove(filepath.Join(dir, "atls-ws"))
	if err := os.Mkdir(filepath.Join(dir, "atls-ws"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := CheckOwner(DefaultPath()); err != nil {
		t.Errorf("our own: %v", err)
	}
	if err := os.Chown(filepath.Join(dir, "atls-ws"), 12345, 12345); err != nil {
		t.Fatal(err)
	}
	if err := CheckOwner(DefaultPath()); err == nil {
		t.Error("another user's folder is used")
	}
}
