// Package vectors ties the tests to docs/vectors.json and to the examples in
// docs/PROTOCOL.md: bytes that a reader of the protocol builds on. Each test
// makes the values of a section and fails when the file says something else.
//
//	UPDATE_VECTORS=1 go test -p 1 ./internal/proto ./internal/sealed ./internal/session ./postconn ./wsconn
//
// writes both anew. That is a change of protocol unless the section is new.
package vectors

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// order is that of the sections in the file.
var order = []string{"about", "greetings", "frames", "malformed", "yamux", "session", "websocket", "post_heads", "post_exchange", "sealed"}

const about = "Bytes of the protocol that docs/PROTOCOL.md describes. Hex is of whole frames. Read by the tests of internal/proto, internal/sealed, internal/session, postconn and wsconn."

func updating() bool { return os.Getenv("UPDATE_VECTORS") != "" }

// docs is the path of a file in docs.
func docs(tb testing.TB, name string) string {
	tb.Helper()
	dir, err := os.Getwd()
	if err != nil {
		tb.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "docs", name)
		}
		if dir == filepath.Dir(dir) {
			tb.Fatal("no go.mod above the working directory")
		}
		dir = filepath.Dir(dir)
	}
}

func read(tb testing.TB) map[string]json.RawMessage {
	tb.Helper()
	b, err := os.ReadFile(docs(tb, "vectors.json"))
	if err != nil && !updating() {
		tb.Fatal(err)
	}
	all := map[string]json.RawMessage{}
	if len(b) > 0 {
		if err := json.Unmarshal(b, &all); err != nil {
			tb.Fatal(err)
		}
	}
	return all
}

// Check fails unless the section of docs/vectors.json is what got marshals to.
func Check(tb testing.TB, section string, got any) {
	tb.Helper()
	all := read(tb)
	want, mine := canonical(tb, all[section]), canonical(tb, got)
	if bytes.Equal(want, mine) {
		return
	}
	if !updating() {
		a, b := strings.Split(string(want), "\n"), strings.Split(string(mine), "\n")
		for i := range min(len(a), len(b)) {
			if a[i] != b[i] {
				tb.Fatalf("section %s of docs/vectors.json differs at its line %d:\nfile %s\nhere %s", section, i, a[i], b[i])
			}
		}
		tb.Fatalf("section %s of docs/vectors.json has %d lines, here %d", section, len(a), len(b))
	}
	all["about"], all[section] = canonical(tb, about), mine
	write(tb, all)
}

// canonical is v, or the JSON that v is, as the file has it.
func canonical(tb testing.TB, v any) json.RawMessage {
	tb.Helper()
	if raw, ok := v.(json.RawMessage); ok {
		if raw == nil {
			return nil
		}
		var b bytes.Buffer
		if err := json.Indent(&b, raw, "", "  "); err != nil {
			tb.Fatal(err)
		}
		return b.Bytes()
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		tb.Fatal(err)
	}
	return bytes.TrimSpace(b.Bytes())
}

func write(tb testing.TB, all map[string]json.RawMessage) {
	tb.Helper()
	var b bytes.Buffer
	b.WriteString("{")
	comma := ""
	for _, name := range order {
		if all[name] != nil {
			b.WriteString(comma + "\n\"" + name + "\": ")
			b.Write(all[name])
			comma = ","
		}
	}
	b.WriteString("\n}\n")
	var out bytes.Buffer
	if err := json.Indent(&out, b.Bytes(), "", "  "); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(docs(tb, "vectors.json"), out.Bytes(), 0o644); err != nil {
		tb.Fatal(err)
	}
}

// Document fails unless docs/PROTOCOL.md has text between the comments
// "example name" and "end of example".
func Document(tb testing.TB, name, text string) {
	tb.Helper()
	file := docs(tb, "PROTOCOL.md")
	b, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	begin, end := "<!-- example "+name+" -->\n", "<!-- end of example -->"
	before, rest, ok := strings.Cut(string(b), begin)
	inside, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		tb.Fatalf("docs/PROTOCOL.md has no example %s", name)
	}
	var block strings.Builder
	block.WriteString("\n")
	for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		block.WriteString(strings.TrimRight("    "+line, " ") + "\n")
	}
	block.WriteString("\n")
	if inside == block.String() {
		return
	}
	if !updating() {
		tb.Fatalf("the example %s of docs/PROTOCOL.md is not what happens, which is:\n%s", name, block.String())
	}
	if err := os.WriteFile(file, []byte(before+begin+block.String()+end+after), 0o644); err != nil {
		tb.Fatal(err)
	}
}
