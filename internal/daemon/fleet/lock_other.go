//go:build !unix

package fleet

import (
	"math"
	"os"
	"path/filepath"
)

// lock only makes the file: there is no lock here that ends with the process.
func lock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, dirError(dir, err)
	}
	return f, nil
}

func free(string) (uint64, error) { return math.MaxUint64, nil }
