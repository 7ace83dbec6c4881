package device

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/config"
)

func TestPositionIsReplacedInOneStep(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "here")
	if _, err := loadApplied(dir); err != nil {
		t.Fatal(err)
	}
	for seq := range uint64(3) {
		if err := savePosition(dir, client.Position{Queue: "q", Seq: seq}); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(filepath.Join(dir, stateFile))
	var p client.Position
	if err != nil || json.Unmarshal(data, &p) != nil || p.Queue != "q" || p.Seq != 2 {
		t.Errorf("%s, %v", data, err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 2 { // and VERSION
		t.Errorf("files left: %v", left)
	}
	if _, err := loadApplied(dir); err != nil {
		t.Error(err)
	}
}

func TestUnusableStateIsSaidWithTheNextStep(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, stateFile)
	for _, text := range []string{"", "{", `{"seq":3}`, "\x00\x00"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var fe *config.FileError
		if _, err := loadApplied(dir); !errors.As(err, &fe) || fe.File != path || !strings.Contains(fe.Next, "remove it") {
			t.Errorf("%q: %v", text, err)
		}
	}
	var fe *config.FileError
	if _, err := loadApplied(path); !errors.As(err, &fe) || fe.Next == "" {
		t.Errorf("a file in place of the directory: %v", err)
	}
}
