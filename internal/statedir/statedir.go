// Package statedir marks a directory with the version of what is kept in it, so
// that an older program does not take a newer one's state for its own.
package statedir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// File holds the version, a number.
const File = "VERSION"

// NewerError says that a newer program has written the directory.
type NewerError struct {
	Dir       string
	Has, Want int
}

// Error names the versions.
func (e *NewerError) Error() string {
	return fmt.Sprintf("%s was written by a newer atls-ws: its format is %d, and this one knows up to %d", e.Dir, e.Has, e.Want)
}

// Next says what to do about it.
func (*NewerError) Next() string {
	return "install the newer version again, or restore the backup that was made before it: an upgrade keeps no way back by itself"
}

// Check reads the version of dir and marks it with want, the newest that the
// program knows, when it has none or an older one. It returns what dir had, 0
// for none; the caller converts what is older before it calls Check.
func Check(dir string, want int) (had int, err error) {
	path := filepath.Join(dir, File)
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return 0, err
	default:
		if had, err = strconv.Atoi(strings.TrimSpace(string(data))); err != nil || had < 1 {
			return 0, fmt.Errorf("%s: want a number alone, not %q", path, clip(string(data)))
		}
	}
	if had > want {
		return had, &NewerError{dir, had, want}
	}
	if had == want {
		return had, nil
	}
	f, err := os.CreateTemp(dir, ".version-*")
	if err != nil {
		return had, err
	}
	_, err = fmt.Fprintln(f, want)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return had, err
}

func clip(s string) string { return s[:min(len(s), 20)] }
