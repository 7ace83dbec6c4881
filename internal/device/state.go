package device

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/statedir"
)

// stateFormat is the version of what is in the directory.
const stateFormat = 1

// stateFile holds the position in the server's queue of signals.
const stateFile = "applied.json"

// loadApplied reads the position that the directory keeps, which it makes when
// it is not there, and saves each new one. An empty dir keeps it in memory.
func loadApplied(dir string) (*client.Applied, error) {
	if dir == "" {
		return client.NewApplied(client.Position{}, nil), nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, &config.FileError{File: dir, Err: errors.Unwrap(err), Next: "name a directory that this user can write to with --state"}
	}
	if _, err := statedir.Check(dir, stateFormat); err != nil {
		next := "name a directory that this user can write to with --state"
		if newer := (*statedir.NewerError)(nil); errors.As(err, &newer) {
			next = newer.Next()
		}
		return nil, &config.FileError{File: dir, Err: err, Next: next}
	}
	path := filepath.Join(dir, stateFile)
	var at client.Position
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, &config.FileError{File: path, Err: errors.Unwrap(err), Next: "make it readable for the user that runs this program"}
	default:
		if err := json.Unmarshal(data, &at); err != nil || at.Queue == "" {
			return nil, &config.FileError{File: path, Err: errors.New("is not what atls-ws wrote: the position in the queue of signals cannot be read"),
				Next: "remove it; a signal that was handled and not acked is handled again then"}
		}
	}
	return client.NewApplied(at, func(p client.Position) error { return savePosition(dir, p) }), nil
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
