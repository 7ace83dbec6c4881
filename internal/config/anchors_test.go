package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/atls-ws/atls-ws/internal/pki"
)

func TestAnchorSetsAreLoadedAndChecked(t *testing.T) {
	dir := newPKI(t, 0)
	text := "inner: {cert: server.pem, key: server-key.pem, client_ca: ca.pem}\nanchors:\n"
	file := filepath.Join(dir, "s.yaml")
	load := func(anchors string) (*Server, error) {
		if err := os.WriteFile(file, []byte(text+anchors), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := LoadServer(file)
		if err != nil {
			return nil, err
		}
		return s, s.Check()
	}
	s, err := load("  plant: ca.pem\n")
	if err != nil {
		t.Fatal(err)
	}
	if sets, err := s.AnchorSets(); err != nil || len(sets["plant"]) != 1 || sets["plant"][0].Subject.CommonName != "test" {
		t.Errorf("%v, %v", sets, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "empty.pem"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(pki.CertPath(dir, pki.CAFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "twice.pem"), append(ca, ca...), 0o600); err != nil {
		t.Fatal(err)
	}
	for anchors, want := range map[string]string{
		"  a: none.pem\n":                            file + ":3: anchors.a: " + dir + "/none.pem: no such file",
		"  a: ca.pem\n  b: server.pem\n":             file + ":4: anchors.b: " + dir + "/server.pem: \"CN=atls-ws\": not a CA certificate",
		"  a: ca-key.pem\n":                          "holds a PRIVATE KEY",
		"  a: empty.pem\n":                           "has no PEM block",
		"  a: twice.pem\n":                           "is there twice",
		"  a: ''\n":                                  file + ":3: anchors.a: missing",
		"  a b: ca.pem\n":                            file + ":3: anchors.a b: ",
		"  a: ca.pem\nservices: {http: tcp://h:1}\n": file + ":4: services.http: cannot be used with anchors",
	} {
		if _, err := load(anchors); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", anchors, err, want)
		}
	}
}
