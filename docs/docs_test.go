// Package docs_test holds documents to what they are about.
package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var (
	promises  = regexp.MustCompile(`(?m)^- \*\*[A-Z]\d+\*\*`)
	promise   = regexp.MustCompile(`(?ms)^- \*\*([A-Z]\d+)\*\* (.*?)(?:^\s*$|^- )`)
	reference = regexp.MustCompile("`([a-z][a-z0-9/-]*) ((?:Test|Fuzz)[A-Za-z0-9]+)`")
)

// Each promise of SECURITY.md names tests that there are.
func TestPromisesOfSecurityAreHeldByTests(t *testing.T) {
	text := read(t, "SECURITY.md")
	seen := map[string]bool{}
	for rest := text; ; {
		at := promise.FindStringSubmatchIndex(rest)
		if at == nil {
			break
		}
		id, words := rest[at[2]:at[3]], rest[at[4]:at[5]]
		rest = rest[at[5]:]
		if seen[id] {
			t.Errorf("%s is there twice", id)
		}
		seen[id] = true
		if !reference.MatchString(words) {
			t.Errorf("%s names no test", id)
		}
	}
	if n := len(promises.FindAllString(text, -1)); len(seen) != n {
		t.Errorf("%d promises are read, %d are there", len(seen), n)
	}
	for _, ref := range reference.FindAllStringSubmatch(text, -1) {
		if !has(t, ref[1], ref[2]) {
			t.Errorf("%s has no %s", ref[1], ref[2])
		}
	}
}

// has says whether a package of this module has a test.
func has(t *testing.T, pkg, test string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", filepath.FromSlash(pkg), "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.Contains(read(t, file), "\nfunc "+test+"(") {
			return true
		}
	}
	return false
}
