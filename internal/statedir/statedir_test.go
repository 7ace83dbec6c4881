package statedir

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	for _, tc := range []struct {
		there string
		want  int
		had   int
		err   string
	}{
		{"", 1, 0, ""},
		{"1\n", 1, 1, ""},
		{"1\n", 2, 1, ""},
		{"3\n", 2, 3, "its format is 3, and this one knows up to 2"},
		{"two\n", 2, 0, `want a number alone, not "two\n"`},
	} {
		path := filepath.Join(dir, File)
		_ = os.Remove(path)
		if tc.there != "" {
			if err := os.WriteFile(path, []byte(tc.there), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		had, err := Check(dir, tc.want)
		if had != tc.had || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%q: %d, %v", tc.there, had, err)
		}
		newer := (*NewerError)(nil)
		if errors.As(err, &newer) != (tc.had > tc.want) {
			t.Errorf("%q: %v", tc.there, err)
		}
		if data, _ := os.ReadFile(path); err == nil && string(data) != string(rune('0'+tc.want))+"\n" {
			t.Errorf("%q became %q", tc.there, data)
		}
	}
}
