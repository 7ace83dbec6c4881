package daemon

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/pki"
)

func TestLogsHaveNoPayloadsAndNoTokens(t *testing.T) {
	var all lines
	var file string
	s := startOptions(t, func(cfg *config.Server, dir string) {
		file = filepath.Join(dir, "tokens")
		cfg.Services = map[string]string{"echo": "exec:cat"}
		cfg.AllowExec = true
		cfg.Enroll = config.Enroll{Cert: pki.CertPath(dir, pki.CAFile), Key: pki.KeyPath(dir, pki.CAFile), Tokens: file}
	}, func(o *Options) {
		o.Logger = slog.New(slog.NewTextHandler(&all, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	mux := new(client.Mux)
	upper(t, mux, "up")
	mux.OnSignal("greet", func(context.Context, client.Signal) (string, error) { return "secret reply", nil })
	sess := s.connect("d", mux)
	if o, err := s.admin.Push(t.Context(), &admin.Push{Device: "d", Name: "greet", Data: []byte("secret data"), Timeout: time.Minute}); err != nil || o.Text != "secret reply" {
		t.Fatalf("%+v, %v", o, err)
	}
	if _, err := sess.Signal(t.Context(), client.Signal{Name: "alarm", Data: []byte("secret alarm")}); err != nil {
		t.Fatal(err)
	}
	_ = say(t, must[net.Conn](t)(sess.Dial(t.Context(), "echo")), "secret up")
	_ = say(t, must[*admin.Conn](t)(s.admin.Dial(t.Context(), "d", "up")), "secret down")
	writeTokens(t, file, token("pump-7", "secret token", time.Hour))
	if _, err := s.enroll("pump-7", "secret guess"); err == nil {
		t.Error("a wrong token is taken")
	}
	if _, err := s.enroll("pump-7", "secret token"); err != nil {
		t.Error(err)
	}
	if text := all.String(); strings.Contains(strings.ToLower(text), "secret") || !strings.Contains(text, "device enrolled") {
		t.Error(text)
	}
}
