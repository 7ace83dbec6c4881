//go:build unix

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The figures mean nothing at this size; that there are some does.
func TestStreamsReport(t *testing.T) {
	dir := t.TempDir()
	o := &options{out: dir, rounds: 1, mib: 1, command: "test"}
	if err := streams(o); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "streams.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range streamCases(o) {
		if !strings.Contains(string(b), "| "+c.name+" |") {
			t.Errorf("the report lacks %s:\n%s", c.name, b)
		}
	}
	if svg, err := os.ReadFile(filepath.Join(dir, "streams.svg")); err != nil || !strings.HasSuffix(string(svg), "</svg>\n") {
		t.Errorf("picture: %v", err)
	}
}
