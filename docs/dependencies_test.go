package docs_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// goMod is what go mod edit -json says.
type goMod struct {
	Require []struct {
		Path     string
		Indirect bool
	}
	Tool []struct{ Path string }
}

func run(t *testing.T, args ...string) []byte {
	t.Helper()
	c := exec.Command("go", args...)
	c.Dir = ".."
	c.Env = append(os.Environ(), "GOOS=linux") // elsewhere it is a little different
	out, err := c.Output()
	if err != nil {
		t.Fatalf("go %s: %v", strings.Join(args, " "), err)
	}
	return out
}

func modFile(t *testing.T, file string) (m goMod) {
	t.Helper()
	if err := json.Unmarshal(run(t, "mod", "edit", "-json", file), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// table is the rows below a heading, without the table's own, as "first | second".
func table(t *testing.T, text, heading string) (rows []string) {
	t.Helper()
	_, below, ok := strings.Cut(text, "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("there is no %q", heading)
	}
	below, _, _ = strings.Cut(below, "\n## ")
	for line := range strings.Lines(below) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) < 3 || strings.HasPrefix(cells[0], "-") || strings.Contains(line, "|---") {
			continue
		}
		for i, c := range cells {
			if cells[i] = strings.TrimSpace(c); cells[i] == "" {
				t.Errorf("an empty cell: %s", line)
			}
		}
		rows = append(rows, cells[0]+" | "+cells[1])
	}
	return rows[1:] // the names of the columns
}

// deviceTags are those of the device's build, which is described in two places, and
// the Dockerfile builds by the first.
func deviceTags(t *testing.T) string {
	t.Helper()
	_, tags, ok := strings.Cut(read(t, "../Makefile"), "\nDEVICE_TAGS = ")
	tags, _, _ = strings.Cut(tags, "\n")
	if !ok || tags == "" {
		t.Fatal("the Makefile has no DEVICE_TAGS")
	}
	for file, want := range map[string]string{
		"../.goreleaser.yaml":     "-tags=" + tags,
		"../Makefile":             `-trimpath -ldflags "-s -w -X main.buildVersion=$(PKG_VERSION)"`,
		"../packaging/Dockerfile": "make binaries ",
	} {
		if !strings.Contains(read(t, file), want) {
			t.Errorf("%s does not have %s", file, want)
		}
	}
	if n := strings.Count(read(t, "../.goreleaser.yaml"), `ldflags: ["-s -w -X main.buildVersion={{ .Version }}"]`); n != 2 {
		t.Errorf("%d of 2 builds of .goreleaser.yaml have the Makefile's ldflags", n)
	}
	return tags
}

// DEPENDENCIES.md has every module, where it is, and no other.
func TestDependenciesAreListed(t *testing.T) {
	in := map[string]string{}
	for _, build := range [][2]string{{"server", ""}, {"device", deviceTags(t)}} { // the second has the last word
		out := run(t, "list", "-deps", "-tags", build[1], "-f", "{{with .Module}}{{.Path}}{{end}}", "./cmd/atls-ws")
		for _, path := range strings.Fields(string(out)) {
			in[path] = build[0]
		}
	}
	var direct, indirect, tools []string
	for _, r := range modFile(t, "go.mod").Require {
		where, ok := in[r.Path]
		if !ok {
			where = "test"
		}
		if row := r.Path + " | " + where; r.Indirect {
			indirect = append(indirect, row)
		} else {
			direct = append(direct, row)
		}
	}
	files, err := filepath.Glob("../.ci/*.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		file = ".ci/" + filepath.Base(file)
		m := modFile(t, file)
		for _, tool := range m.Tool {
			tools = append(tools, fmt.Sprint(tool.Path, " | ", file))
		}
		for _, r := range m.Require {
			if !r.Indirect {
				t.Errorf("%s requires %s, which is no tool", file, r.Path)
			}
		}
	}
	text := read(t, "DEPENDENCIES.md")
	for heading, want := range map[string][]string{"Chosen": direct, "Brought along": indirect, "Tools": tools} {
		got := table(t, text, heading)
		for _, row := range want {
			if !slices.Contains(got, row) {
				t.Errorf("%s: there is no line that begins with %q", heading, row)
			}
		}
		for _, row := range got {
			if !slices.Contains(want, row) {
				t.Errorf("%s: %q is not so, or not any more", heading, row)
			}
		}
	}
}
