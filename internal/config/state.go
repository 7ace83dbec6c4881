package config

import (
	"os"
	"path/filepath"
)

// DefaultData is where a server keeps its data when nothing says where:
// /var/lib/atls-ws for root, and else below the user's state directory
// (XDG_STATE_HOME, by default ~/.local/state).
func DefaultData() string {
	if os.Getuid() == 0 {
		return "/var/lib/atls-ws"
	}
	dir := os.Getenv("XDG_STATE_HOME")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "atls-ws-data"
		}
		dir = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(dir, "atls-ws")
}
