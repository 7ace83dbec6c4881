//go:build unix

package device

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/config"
)

func TestPositionIsReplacedInOneStep(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "here")
	if _, err := openState(dir, slog.New(slog.DiscardHandler)); err != nil {
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
	if _, err := openState(dir, slog.New(slog.DiscardHandler)); err != nil {
		t.Error(err)
	}
}

func TestDamagedPositionBeginsAnewAndIsPutAside(t *testing.T) {
	for _, text := range []string{"", "{", `{"seq":3}`, "\x00\x00"} {
		dir := t.TempDir()
		path := filepath.Join(dir, stateFile)
		check(t, os.WriteFile(path, []byte(text), 0o600))
		check(t, os.WriteFile(path+".123", nil, 0o600)) // of a power cut
		var log lines
		k, err := openState(dir, slog.New(slog.NewTextHandler(&log, nil)))
		check(t, err)
		if !log.has("begins anew") || !log.has("handled again") || !log.has("next=") {
			t.Errorf("%q is not said", text)
		}
		if data, err := os.ReadFile(path + damagedSuffix); err != nil || string(data) != text {
			t.Errorf("put aside: %q, %v", data, err)
		}
		check(t, k.save(client.Position{Queue: "q", Seq: 4}))
		again, err := openState(dir, slog.New(slog.DiscardHandler))
		check(t, err)
		if at, err := again.read(); err != nil || at.Seq != 4 {
			t.Errorf("%+v, %v", at, err)
		}
		if left, _ := filepath.Glob(path + ".1*"); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
	}
}

func TestUnusableStateIsSaidWithTheNextStep(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	check(t, os.WriteFile(path, nil, 0o600))
	var fe *config.FileError
	if _, err := openState(path, slog.New(slog.DiscardHandler)); !errors.As(err, &fe) || fe.Next == "" {
		t.Errorf("a file in place of the directory: %v", err)
	}
}

// TestStateThatCannotBeWrittenIsSaidOnce, and is written when it can. A
// file in place of the directory stands for a disk, which only root could fill.
func TestStateThatCannotBeWrittenIsSaidOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	var log lines
	k, err := openState(dir, slog.New(slog.NewTextHandler(&log, nil)))
	check(t, err)
	check(t, os.RemoveAll(dir))
	check(t, os.WriteFile(dir, nil, 0o600))
	for seq := range uint64(3) {
		check(t, k.save(client.Position{Queue: "q", Seq: 1 + seq}))
	}
	k.saveTime(time.Now())
	since, trouble := k.trouble()
	if trouble == nil || since.IsZero() || log.count("the state is not kept") != 1 {
		t.Errorf("%v since %s, said %d times", trouble, since, log.count("the state is not kept"))
	}
	check(t, os.Remove(dir))
	k.again()
	if _, err := k.trouble(); err != nil || log.count("kept again") != 1 {
		t.Errorf("%v", err)
	}
	if at, err := k.read(); err != nil || at.Seq != 3 {
		t.Errorf("%+v, %v", at, err)
	}
}
