// Package configs holds nothing but the files beside it; its tests check them.
package configs

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/atls-ws/atls-ws/internal/pki"
)

func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/" + name); err != nil {
			t.Skipf("%s is not installed: see .ci/apt", name)
		}
	}
	return path
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// certificates are for the places that the fronts name.
func certificates(t *testing.T, dir string) {
	t.Helper()
	pair, err := pki.SelfSigned([]string{"atls.example.com"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := pair.Write(dir, "outer", false); err != nil {
		t.Fatal(err)
	}
}

func TestNginxTakesItsFront(t *testing.T) {
	nginx, dir := tool(t, "nginx"), t.TempDir()
	certificates(t, dir)
	front := write(t, filepath.Join(dir, "front.conf"), strings.ReplaceAll(read(t, "front/nginx.conf"), "/etc/ssl/atls", dir))
	conf := write(t, filepath.Join(dir, "nginx.conf"), "pid "+dir+"/pid;\nerror_log stderr;\nevents {}\nhttp {\naccess_log off;\n"+
		"client_body_temp_path "+dir+"; proxy_temp_path "+dir+"; fastcgi_temp_path "+dir+"; uwsgi_temp_path "+dir+"; scgi_temp_path "+dir+";\n"+
		"include "+front+";\n}\n")
	run(t, nginx, "-t", "-c", conf)
}

func TestHaproxyTakesItsFront(t *testing.T) {
	haproxy, dir := tool(t, "haproxy"), t.TempDir()
	certificates(t, dir)
	both := write(t, filepath.Join(dir, "both.pem"), read(t, filepath.Join(dir, "outer.pem"))+read(t, filepath.Join(dir, "outer-key.pem")))
	conf := write(t, filepath.Join(dir, "haproxy.cfg"), strings.ReplaceAll(read(t, "front/haproxy.cfg"), "/etc/ssl/atls/outer.pem", both))
	if out := run(t, haproxy, "-c", "-f", conf); strings.Contains(out, "WARNING") {
		t.Errorf("haproxy warns:\n%s", out)
	}
}

func TestSystemdTakesItsUnits(t *testing.T) {
	analyze, dir := tool(t, "systemd-analyze"), t.TempDir()
	units, err := filepath.Glob("systemd/*")
	if err != nil || len(units) != 5 {
		t.Fatal(units, err)
	}
	program := write(t, filepath.Join(dir, "program"), "#!/bin/sh\n")
	if err := os.Chmod(program, 0o700); err != nil {
		t.Fatal(err)
	}
	args := []string{"verify", "--man=no"}
	for _, unit := range units {
		text := regexp.MustCompile(`/usr/bin/atls-ws(-device)?\b`).ReplaceAllString(read(t, unit), program)
		args = append(args, write(t, filepath.Join(dir, filepath.Base(unit)), text))
	}
	if out := run(t, analyze, args...); strings.Contains(out, dir) {
		t.Errorf("systemd complains:\n%s", out)
	}
	for _, unit := range []string{"atls-ws-server.service", "atls-ws-device.service"} {
		out, err := exec.Command(analyze, "security", "--offline=yes", "--threshold=25", filepath.Join(dir, unit)).CombinedOutput()
		if err != nil {
			t.Errorf("%s is more exposed than 2.5: %v\n%s", unit, err, out)
		}
	}
}

// metric finds the names of metrics in expressions.
var metric = regexp.MustCompile(`atls_[a-z_]+`)

// exported are the names that the daemon has.
func exported(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?:desc|counter)\("([a-z_]+)"|Name: "atls_([a-z_]+)"`).FindAllStringSubmatch(read(t, "../internal/daemon/metrics.go"), -1) {
		names["atls_"+m[1]+m[2]] = true
	}
	return names
}

func checkMetrics(t *testing.T, where, expr string, names map[string]bool) {
	t.Helper()
	for _, name := range metric.FindAllString(expr, -1) {
		base := strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_count")
		if !names[name] && !names[base] {
			t.Errorf("%s: there is no metric %s", where, name)
		}
	}
}

func TestPrometheusRules(t *testing.T) {
	var file struct {
		Groups []struct {
			Name  string `yaml:"name"`
			Rules []struct {
				Alert       string            `yaml:"alert"`
				Expr        string            `yaml:"expr"`
				For         string            `yaml:"for"`
				Labels      map[string]string `yaml:"labels"`
				Annotations map[string]string `yaml:"annotations"`
			} `yaml:"rules"`
		} `yaml:"groups"`
	}
	if err := yaml.Load([]byte(read(t, "prometheus-rules.yaml")), &file, yaml.WithKnownFields()); err != nil {
		t.Fatal(err)
	}
	names := exported(t)
	if len(names) < 20 || len(file.Groups) != 1 {
		t.Fatal(names, file)
	}
	for _, r := range file.Groups[0].Rules {
		if r.Alert == "" || r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["next"] == "" {
			t.Errorf("an alert lacks its name, severity, summary or next step: %+v", r)
		}
		if strings.Count(r.Expr, "(") != strings.Count(r.Expr, ")") || strings.Count(r.Expr, "{") != strings.Count(r.Expr, "}") {
			t.Errorf("%s: brackets do not match", r.Alert)
		}
		checkMetrics(t, r.Alert, r.Expr, names)
	}
}

func TestGrafanaDashboard(t *testing.T) {
	var board struct {
		Title  string
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.NewDecoder(bytes.NewReader([]byte(read(t, "grafana-dashboard.json")))).Decode(&board); err != nil {
		t.Fatal(err)
	}
	if board.Title != "atls-ws" || len(board.Panels) < 15 {
		t.Error(board)
	}
	names := exported(t)
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			checkMetrics(t, p.Title, target.Expr, names)
		}
	}
}
