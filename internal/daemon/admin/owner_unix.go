//go:build unix

package admin

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// CheckOwner says whether path is the default one in a folder that another user
// may have made: below a temporary folder anybody can, and could then answer in
// the daemon's place. A folder that is not there is nobody's.
func CheckOwner(path string) error {
	if path != DefaultPath() {
		return nil
	}
	dir := filepath.Dir(path)
	info, err := os.Lstat(dir)
	if err != nil {
		return nil //nolint:nilerr // whoever uses it says what is wrong
	}
	parent, err := os.Stat(filepath.Dir(dir))
	if err != nil || parent.Mode().Perm()&0o002 == 0 {
		return nil //nolint:nilerr // only its owner makes folders there
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if uid := os.Geteuid(); ok && int(st.Uid) != uid && st.Uid != 0 || !info.IsDir() {
		return fmt.Errorf("the folder %s is another user's, or a link", dir)
	}
	return nil
}
