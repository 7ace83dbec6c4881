package device

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// statusSocket is in the state directory. Whoever connects to it is told the
// Status and hung up on.
const statusSocket = "status.sock"

// runDir has the socket when the state directory is read-only.
const runDir = "/run/atls-ws-device"

const (
	statusTimeout  = 5 * time.Second
	maxStatus      = 64 << 10
	maxSocketPath  = 103 // of a unix socket, on every system
	statusHandlers = 8
)

// statusSockets are where the socket of a state directory may be, the first
// place first.
func statusSockets(state string) []string {
	all := []string{filepath.Join(state, statusSocket)}
	if abs, err := filepath.Abs(state); err == nil {
		sum := sha256.Sum256([]byte(abs))
		all = append(all, filepath.Join(runDir, hex.EncodeToString(sum[:8])+".sock"))
	}
	return all
}

// listen tells the status at the socket, until close. A device runs without
// that too.
func (s *status) listen(ctx context.Context) {
	if s.keeper.dir == "" {
		return
	}
	var l net.Listener
	var err error
	for i, path := range statusSockets(s.keeper.dir) {
		if i > 0 {
			_ = os.Mkdir(filepath.Dir(path), 0o700) // or the next says why not
		}
		var e error
		if l, e = listenStatus(ctx, path); e == nil || !diskTrouble(e) {
			err = e
			break
		}
		err = errors.Join(err, e)
	}
	if l == nil {
		s.log.Warn("there is no local status", "err", err, "next", "let this user write to the directory, and give it a path of at most 80 characters")
		return
	}
	s.listener = l
	slots := make(chan struct{}, statusHandlers)
	s.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			slots <- struct{}{}
			s.wg.Go(func() {
				defer func() { <-slots }()
				_ = c.SetDeadline(time.Now().Add(statusTimeout))
				_ = json.NewEncoder(c).Encode(s.get())
				_ = c.Close()
			})
		}
	})
}

// listenStatus replaces the socket that a dead process left.
func listenStatus(ctx context.Context, path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("%s: too long for a unix socket", path)
	}
	if c, err := new(net.Dialer).DialContext(ctx, "unix", path); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("another device answers on %s", path)
	} else if errors.Is(err, syscall.ECONNREFUSED) {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	return l, os.Chmod(path, 0o600)
}

func (s *status) close() {
	if s.listener != nil {
		_ = s.listener.Close()
	}
	s.wg.Wait()
}

// ErrNotRunning says that no device runs with a state directory.
var ErrNotRunning = errors.New("no device runs here")

// ErrNoAnswer says that a device is there and does not answer.
var ErrNoAnswer = errors.New("the device does not answer")

// ReadStatus asks the device that runs with the state directory dir.
func ReadStatus(ctx context.Context, dir string) (*Status, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	var c net.Conn
	var err error
	var path string
	for _, path = range statusSockets(dir) {
		c, err = new(net.Dialer).DialContext(ctx, "unix", path)
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) {
			break
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w: nothing answers on %s", ErrNotRunning, filepath.Join(dir, statusSocket))
	case err != nil:
		return nil, err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(statusTimeout))
	data, err := io.ReadAll(io.LimitReader(c, maxStatus))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, fmt.Errorf("%w within %s on %s", ErrNoAnswer, statusTimeout, path)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var s Status
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &s, nil
}
