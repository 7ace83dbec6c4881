package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"github.com/atls-ws/atls-ws/internal/daemon/admin"
)

// maxPath is what every system takes as a unix socket's path.
const maxPath = 103

// socket is a listener on a unix socket that only the user can connect to.
type socket struct {
	net.Listener
	path string
	own  os.FileInfo
}

// listenSocket listens on a unix socket at path. What a dead process left there
// is replaced; a socket on which something answers, or any other file, is not.
func listenSocket(ctx context.Context, path string) (*socket, error) {
	if len(path) > maxPath { // the link below would succeed, and nobody could connect
		return nil, socketError(path, syscall.EINVAL)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, socketError(path, err)
	}
	if err := admin.CheckOwner(path); err != nil {
		return nil, socketError(path, err)
	}
	// Made in a folder that nobody else can enter, and linked to its place when
	// its mode is set: there is no moment at which others could connect.
	private, err := os.MkdirTemp(dir, ".s")
	if err != nil {
		return nil, socketError(path, err)
	}
	defer func() { _ = os.RemoveAll(private) }()
	made := filepath.Join(private, "s")
	l, err := new(net.ListenConfig).Listen(ctx, "unix", made)
	if err != nil {
		return nil, socketError(path, err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := link(ctx, made, path); err != nil {
		_ = l.Close()
		return nil, err
	}
	own, err := os.Lstat(path)
	if err != nil {
		_ = l.Close()
		return nil, socketError(path, err)
	}
	return &socket{l, path, own}, nil
}

// Close stops listening and removes the socket, unless another has its place.
func (s *socket) Close() error {
	if now, err := os.Lstat(s.path); err == nil && os.SameFile(now, s.own) {
		_ = os.Remove(s.path)
	}
	return s.Listener.Close()
}

func link(ctx context.Context, made, path string) error {
	if err := os.Chmod(made, 0o600); err != nil {
		return socketError(path, err)
	}
	err := os.Link(made, path)
	if !errors.Is(err, fs.ErrExist) {
		return socketError(path, err)
	}
	there, err := os.Lstat(path)
	if err != nil {
		return socketError(path, err)
	}
	if there.Mode().Type() != fs.ModeSocket {
		return &StartError{fmt.Errorf("admin socket %s: there is a file that is not a socket", path), "give another path to --admin"}
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		_ = conn.Close()
		return &StartError{fmt.Errorf("admin socket %s: another server answers on it", path),
			"end that server, or give another path to --admin"}
	case !errors.Is(err, syscall.ECONNREFUSED):
		return socketError(path, err)
	}
	if err := os.Remove(path); err != nil {
		return socketError(path, err)
	}
	return socketError(path, os.Link(made, path)) // an error when another start was quicker
}

// socketError explains err; nil stays nil.
func socketError(path string, err error) error {
	if err == nil {
		return nil
	}
	next := "give a path to --admin in a folder that you can write to"
	if errors.Is(err, syscall.EINVAL) {
		err, next = errors.New("the path is too long for a unix socket"), "give a path of at most 80 characters to --admin"
	}
	for errors.Unwrap(err) != nil {
		err = errors.Unwrap(err) // the calls before it name a file of no interest
	}
	return &StartError{fmt.Errorf("admin socket %s: %w", path, err), next}
}
