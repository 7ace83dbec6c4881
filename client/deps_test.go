package client_test

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/atls-ws/atls-ws"

// deps lists what a package imports, all the way down, less the standard library.
func deps(t *testing.T, pkg string) []string {
	t.Helper()
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", pkg).CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	return strings.Fields(string(out))
}

func imports(t *testing.T, pkg string) []string {
	t.Helper()
	out, err := exec.Command("go", "list", "-f", `{{join .Imports "\n"}}`, pkg).CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	return strings.Fields(string(out))
}

// A device's maker has to trust, and to update, what is in here.
func TestDeviceSideDependencies(t *testing.T) {
	for _, dep := range deps(t, module+"/client") {
		if !strings.HasPrefix(dep, module+"/") && !strings.HasPrefix(dep, "github.com/coder/websocket") && dep != "github.com/hashicorp/yamux" {
			t.Errorf("client depends on %s", dep)
		}
	}
}

// A program that embeds the server, and the device's binary, bring no NATS along.
func TestNATSIsTheDaemonsAlone(t *testing.T) {
	for _, pkg := range []string{"server", "internal/device", "internal/config"} {
		for _, dep := range deps(t, module+"/"+pkg) {
			if strings.Contains(dep, "nats-io") {
				t.Errorf("%s depends on %s", pkg, dep)
			}
		}
	}
	out, err := exec.Command("go", "list", "-deps", "-tags", "device", module+"/cmd/atls-ws").CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	if strings.Contains(string(out), "nats-io") {
		t.Error("the device's binary has NATS in it")
	}
}

// layers says which packages of the project each one may import.
const layers = `
internal/answer:
internal/deadline:
internal/proto:
internal/est:
internal/ece:
internal/sealed: internal/ece
internal/voucher: internal/est
internal/outer: internal/answer
internal/pki: internal/proto
wsconn: internal/answer internal/deadline internal/outer
postconn: internal/answer internal/deadline internal/outer
internal/session: internal/proto internal/sealed
client: internal/answer internal/est internal/outer internal/proto internal/sealed internal/session internal/voucher postconn wsconn
server: internal/est internal/outer internal/proto internal/sealed internal/session postconn wsconn
internal/config: internal/est internal/outer internal/pki internal/proto
internal/limit:
internal/udp: internal/proto
internal/expose: internal/config internal/limit internal/session internal/udp
internal/forward: internal/config internal/session internal/udp
internal/doctor: internal/answer internal/outer internal/proto internal/session postconn wsconn
internal/command:
internal/statedir:
internal/systemd:
internal/watch:
internal/device: client internal/command internal/config internal/expose internal/forward internal/limit internal/statedir internal/systemd internal/watch
`

// Imports point down only: docs/ARCHITECTURE.md has the picture.
func TestLayers(t *testing.T) {
	for _, line := range strings.Split(strings.TrimSpace(layers), "\n") {
		pkg, down, _ := strings.Cut(line, ":")
		for _, imp := range imports(t, module+"/"+pkg) {
			if rest, ours := strings.CutPrefix(imp, module+"/"); ours && !slices.Contains(strings.Fields(down), rest) {
				t.Errorf("%s imports %s", pkg, rest)
			}
		}
	}
}

// lax is where certificates are not verified, or are by other code: the outer hop,
// the walk along it that sends nothing, and the box of the demo. In wsconn it is
// the library's word for the check of Origin.
const lax = `
client/outer.go 1
internal/doctor/doctor.go 1
internal/doctor/tracks.go 2
internal/middlebox/intercept.go 1
internal/session/config.go 2
wsconn/accept.go 1
`

func TestLaxVerificationIsTheOuterHopsAlone(t *testing.T) {
	var found []string
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		if n := strings.Count(string(text), "InsecureSkipVerify"); n > 0 {
			found = append(found, fmt.Sprint(strings.TrimPrefix(filepath.ToSlash(path), "../"), " ", n))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Split(strings.TrimSpace(lax), "\n"); !slices.Equal(found, want) {
		t.Errorf("InsecureSkipVerify is in\n%s\nwant\n%s", strings.Join(found, "\n"), strings.Join(want, "\n"))
	}
}
