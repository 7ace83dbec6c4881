package device

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/statedir"
)

// stateFormat is the version of what is in the directory.
const stateFormat = 1

// stateFile holds the position in the server's queue of signals.
const stateFile = "applied.json"

// damagedSuffix is of a stateFile that could not be read.
const damagedSuffix = ".damaged"

// writable says to make the directory usable.
const writable = "name a directory that this user can write to with --state"

// openState reads what the directory keeps, which it makes when it is not there.
// An empty dir keeps it in memory, and so does, for as long as that lasts, a disk
// that is full, broken or read-only: a device that nobody is near to has to
// connect all the same. What only a person can have done is an error.
func openState(dir string, log *slog.Logger) (*keeper, error) {
	k := &keeper{dir: dir, log: log}
	if dir == "" {
		k.applied = client.NewApplied(client.Position{}, nil)
		return k, nil
	}
	if err := k.mark(); err != nil {
		if !diskTrouble(err) {
			next := writable
			if newer := (*statedir.NewerError)(nil); errors.As(err, &newer) {
				next = newer.Next()
			}
			if inner := errors.Unwrap(err); inner != nil && errors.As(err, new(*fs.PathError)) {
				err = inner
			}
			return nil, &config.FileError{File: dir, Err: err, Next: next}
		}
		k.note(err)
	} else {
		k.marked = true
	}
	k.sweep()
	at, err := k.read()
	if err != nil {
		return nil, err
	}
	k.applied = client.NewApplied(at, k.save)
	return k, nil
}

// read gives the position that was kept. One that is damaged begins anew, for no
// signal is lost by that.
func (k *keeper) read() (client.Position, error) {
	path := filepath.Join(k.dir, stateFile)
	var at client.Position
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return at, nil
	case err != nil && !diskTrouble(err):
		return at, &config.FileError{File: path, Err: errors.Unwrap(err), Next: "make it readable for the user that runs this program"}
	case err == nil:
		if err = json.Unmarshal(data, &at); err == nil && at.Queue != "" {
			return at, nil
		}
		err = errors.Join(errors.New("is not what atls-ws wrote"), os.Rename(path, path+damagedSuffix))
	}
	k.log.Warn("the position in the queue of signals cannot be read, and begins anew", "file", path, "err", err,
		"means", "a signal that was handled and whose ack did not arrive is handled again", "next", "look whether the disk is sound")
	return client.Position{}, nil
}

// sweep removes what a power cut has left half-written.
func (k *keeper) sweep() {
	for _, pattern := range []string{stateFile + ".[0-9]*", ".version-*"} {
		left, _ := filepath.Glob(filepath.Join(k.dir, pattern)) // the pattern is well-formed
		for _, path := range left {
			_ = os.Remove(path)
		}
	}
}

// mark makes the directory and writes its version.
func (k *keeper) mark() error {
	if err := os.MkdirAll(k.dir, 0o700); err != nil {
		return err
	}
	_, err := statedir.Check(k.dir, stateFormat)
	return err
}

// diskTrouble tells what becomes of disks in the course of time.
func diskTrouble(err error) bool {
	for _, e := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EIO} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// savePosition replaces the file in one step, and returns when that is on the
// disk: a power cut leaves the old position or the new one.
func savePosition(dir string, p client.Position) error {
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, stateFile+".*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone after the rename
	_, err = f.Write(append(data, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), filepath.Join(dir, stateFile)); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	err = d.Sync() // or the rename could be lost
	return errors.Join(err, d.Close())
}
