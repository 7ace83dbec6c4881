package client_test

import (
	"os/exec"
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

// Imports point down only: docs/ARCHITECTURE.md has the picture.
func TestLayers(t *testing.T) {
	allowed := map[string][]string{
		"internal/answer":   {},
		"internal/deadline": {},
		"internal/outer":    {"internal/answer"},
		"wsconn":            {"internal/answer", "internal/deadline", "internal/outer"},
		"postconn":          {"internal/answer", "internal/deadline", "internal/outer"},
		"internal/proto":    {},
		"internal/pki":      {"internal/proto"},
		"internal/session":  {"internal/proto"},
		"client":            {"wsconn", "internal/session", "internal/proto"},
		"server":            {"wsconn", "internal/session", "internal/proto"},
		"internal/config":   {"internal/proto", "internal/pki"},
		"internal/expose":   {"internal/config", "internal/session"},
		"internal/device":   {"client", "internal/config", "internal/expose"},
	}
	for pkg, down := range allowed {
		ok := map[string]bool{}
		for _, d := range down {
			ok[module+"/"+d] = true
		}
		for _, imp := range imports(t, module+"/"+pkg) {
			if strings.HasPrefix(imp, module+"/") && !ok[imp] {
				t.Errorf("%s imports %s", pkg, imp)
			}
		}
	}
}
