package access

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

// lines is a log that a test reads while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// await waits until the log has the words.
func (l *lines) await(t *testing.T, words string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		l.mu.Lock()
		found := strings.Contains(l.b.String(), words)
		l.mu.Unlock()
		if found {
			return
		}
	}
	t.Fatalf("the log does not say %q", words)
}

// guard opens a guard for a file with the rules.
func guard(t *testing.T, yaml string, log *lines) (*Guard, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "s.yaml")
	write(t, file, yaml)
	cfg, err := config.ReadServer(file)
	if err == nil {
		err = cfg.ValidateAuthorization()
	}
	if err != nil {
		t.Fatal(err)
	}
	cfg.Audit = filepath.Join(filepath.Dir(file), "audit")
	g, err := open(cfg, file, slog.New(slog.NewTextHandler(log, nil)), 5*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g, file
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

const rulesYAML = `groups:
  pumps: {devices: ["pump-*"], ou: [Pumps]}
  gates: [gate, "gate-*"]
authorization:
  devices:
  - {who: ["@pumps"], services: [mqtt, "log*"]}
  - {who: [gate, "@gates"], routes: [api]}
  operators:
  - {who: [local], may: [list, signal, dial], devices: ["*"]}
  - {who: ["cert:*@ops.test", "token:ci"], may: [dial, list], devices: ["pump-*"], services: [web]}
`

func TestRulesAllowWhatTheySayAndNothingElse(t *testing.T) {
	g, _ := guard(t, rulesYAML, new(lines))
	for _, tc := range []struct {
		device Device
		kind   string
		name   string
		want   string // the rule, empty: denied
	}{
		{Device{ID: "pump-7"}, "service", "mqtt", "authorization.devices[0] (s.yaml:6)"},
		{Device{ID: "pump-7"}, "service", "logs", "devices[0]"},
		{Device{ID: "pump-7"}, "service", "ssh", ""},
		{Device{ID: "x", OU: []string{"Other", "Pumps"}}, "service", "mqtt", "devices[0]"},
		{Device{ID: "x", OU: []string{"pumps"}}, "service", "mqtt", "devices[0]"}, // the group's own name
		{Device{ID: "x", OU: []string{"PUMPS"}}, "service", "mqtt", ""},
		{Device{ID: "@pumps"}, "service", "mqtt", ""}, // no id makes a device a group
		{Device{ID: "gate"}, "route", "api", "devices[1] (s.yaml:7)"},
		{Device{ID: "gate-1"}, "route", "api", "devices[1]"}, // a group of signals is one of rules
		{Device{ID: "gate"}, "service", "api", ""},
		{Device{ID: "pump-7"}, "route", "api", ""},
	} {
		decide := g.Service
		if tc.kind == "route" {
			decide = g.Route
		}
		if d := decide(tc.device, tc.name); d.Allowed != (tc.want != "") || !strings.Contains(d.Rule, tc.want) || d.Rule == "" {
			t.Errorf("%v to %s %s: %+v", tc.device, tc.kind, tc.name, d)
		}
	}
	for _, tc := range []struct {
		who                    Operator
		scope, device, service string
		want                   bool
	}{
		{Local, "dial", "gate", "ssh", true},
		{Local, "signal", "*", "reboot", true},
		{Operator{"cert:joe@ops.test"}, "dial", "pump-1", "web", true},
		{Operator{"cert:Joe", "cert:joe@ops.test"}, "list", "", "", true},
		{Operator{"cert:joe@ops.test"}, "dial", "pump-1", "ssh", false},
		{Operator{"cert:joe@ops.test"}, "signal", "pump-1", "x", false},
		{Operator{"cert:joe@ops.test"}, "signal", "*", "x", false},
		{Operator{"token:ci"}, "dial", "gate", "web", false},
		{Operator{"cert:ci"}, "dial", "pump-1", "web", false},
		{Operator{"cert:local"}, "dial", "pump-1", "web", false},
		{nil, "dial", "pump-1", "web", false},
	} {
		if d := g.Operator(tc.who, "here", tc.scope, tc.device, tc.service); d.Allowed != tc.want || d.Rule == "" {
			t.Errorf("%v %s %s/%s: %+v", tc.who, tc.scope, tc.device, tc.service, d)
		}
	}
	if !g.Sees(Operator{"token:ci"}, "pump-1") || g.Sees(Operator{"token:ci"}, "gate") {
		t.Error("a list shows more or less than it may")
	}
}

func TestWithoutRulesEverybodyMay(t *testing.T) {
	g, _ := guard(t, "listen: x\n", new(lines))
	if !g.Service(Device{ID: "d"}, "s").Allowed || !g.Operator(Operator{"token:x"}, "", "dial", "d", "s").Allowed {
		t.Error("denied")
	}
	g, _ = guard(t, "authorization: {devices: [], operators: []}\n", new(lines))
	if g.Service(Device{ID: "d"}, "s").Allowed || g.Operator(Local, "", "dial", "d", "s").Allowed {
		t.Error("an empty list allows something")
	}
}

func TestEveryDecisionIsInTheAuditLog(t *testing.T) {
	g, file := guard(t, rulesYAML, new(lines))
	g.Service(Device{ID: "pump-7"}, "ssh")
	g.Operator(Local, "unix", "dial", "gate", "ssh")
	data, err := os.ReadFile(filepath.Join(filepath.Dir(file), "audit"))
	if err != nil {
		t.Fatal(err)
	}
	var got []Record
	for line := range strings.Lines(string(data)) {
		var r Record
		if err := json.Unmarshal([]byte(line), &r); err != nil || r.Time.IsZero() {
			t.Errorf("%s: %v", line, err)
		}
		r.Time = time.Time{}
		got = append(got, r)
	}
	want := []Record{
		{Who: "device:pump-7", Action: "service", Device: "pump-7", Target: "ssh", Rule: "no rule of authorization.devices (s.yaml:5) allows it"},
		{Who: "local", Action: "dial", Device: "gate", Target: "ssh", From: "unix", Allowed: true, Rule: "authorization.operators[0] (s.yaml:9)"},
	}
	if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("%+v", got)
	}
}

func TestRulesAreReadAgainAndBadOnesAreRefused(t *testing.T) {
	log := new(lines)
	g, file := guard(t, rulesYAML, log)
	write(t, file, "authorization:\n  devices:\n  - {who: [a], servics: [b]}\n")
	log.await(t, "s.yaml:3: authorization.devices[0].servics: unknown key")
	if !g.Service(Device{ID: "pump-7"}, "mqtt").Allowed {
		t.Error("the old rules are gone")
	}
	// What is left of a file must not allow everything.
	for text, words := range map[string]string{
		"": "the file is empty",
		"authorization:\n  devices:\n  - {who: [a], services: [b, c]}\n": "authorization.operators is gone",
		"authorization: {operators: []}\n":                               "authorization.devices is gone",
		"listen: x\n":                                                    "authorization.devices is gone",
	} {
		write(t, file, text)
		log.await(t, words)
		if !g.Service(Device{ID: "pump-7"}, "mqtt").Allowed || g.Service(Device{ID: "pump-7"}, "ssh").Allowed || g.Operator(Operator{"token:x"}, "", "dial", "d", "s").Allowed {
			t.Errorf("after %q the old rules are gone", text)
		}
	}
	write(t, file, "authorization:\n  devices:\n  - {who: [a], services: [b, c]}\n  operators: []\n")
	log.await(t, "rules read again")
	if g.Service(Device{ID: "pump-7"}, "mqtt").Allowed || !g.Service(Device{ID: "a"}, "c").Allowed {
		t.Error("the old rules are still there")
	}
	// SIGHUP begins a new audit file.
	audit := filepath.Join(filepath.Dir(file), "audit")
	if err := os.Rename(audit, audit+".1"); err != nil {
		t.Fatal(err)
	}
	g.Reload()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(audit); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("no new audit file")
		}
	}
}

func TestTokens(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	write(t, file, "# who\n\nci 0123456789abcdef\nbob sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\n")
	tokens, err := LoadTokens(file)
	if err != nil {
		t.Fatal(err)
	}
	for secret, want := range map[string]string{"0123456789abcdef": "ci", "test": "bob", "": "", "ci": "", "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08": ""} {
		if name, ok := tokens.Name(secret); name != want || ok != (want != "") {
			t.Errorf("%q: %q, %v", secret, name, ok)
		}
	}
	write(t, file, "eve 0123456789abcdefgh\n")
	if name, ok := tokens.Name("0123456789abcdef"); ok {
		t.Errorf("a token that was taken out still is %s", name)
	}
	for _, text := range []string{"", "a\n", "a short\n", "a sha256:00\n", "a 0123456789abcdef x\n", "a 0123456789abcdef\na 0123456789abcdeg\n"} {
		write(t, file, text)
		if _, err := LoadTokens(file); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
}
