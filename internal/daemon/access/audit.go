package access

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"
)

// Record is a line of the audit log.
type Record struct {
	Time    time.Time `json:"time"`
	Who     string    `json:"who"`
	Action  string    `json:"action"` // list, signal, dial, manage, service, route or login
	Device  string    `json:"device,omitempty"`
	Target  string    `json:"target,omitempty"` // the signal's, service's or route's name
	From    string    `json:"from,omitempty"`   // where the operator connects from
	Allowed bool      `json:"allowed"`
	Rule    string    `json:"rule"`
	More    int       `json:"more,omitempty"` // of the same, not recorded one by one
}

// audit writes records to a file, or to the log when there is none.
type audit struct {
	log  *slog.Logger
	path string

	mu     sync.Mutex
	file   io.WriteCloser
	failed bool // said already
}

func openAudit(path string, log *slog.Logger) (*audit, error) {
	a := &audit{log: log, path: path}
	if path == "" {
		return a, nil
	}
	f, err := openAppend(path)
	if err != nil {
		return nil, err
	}
	a.file = f
	return a, nil
}

func openAppend(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
}

func (a *audit) record(r Record) {
	if a.path == "" {
		level := slog.LevelInfo
		if !r.Allowed {
			level = slog.LevelWarn
		}
		attrs := []any{"who", r.Who, "action", r.Action, "device", r.Device, "target", r.Target, "from", r.From, "allowed", r.Allowed, "rule", r.Rule}
		if r.More > 0 {
			attrs = append(attrs, "more", r.More)
		}
		a.log.Log(context.Background(), level, "decision", attrs...)
		return
	}
	line, _ := json.Marshal(r) // of texts and a time: no error
	a.mu.Lock()
	defer a.mu.Unlock()
	err := os.ErrClosed
	if a.file != nil {
		_, err = a.file.Write(append(line, '\n'))
	}
	if err != nil && !a.failed {
		a.log.Error("audit log cannot be written", "file", a.path, "err", err)
	}
	a.failed = err != nil
}

// reopen begins a new file after the old one was moved away.
func (a *audit) reopen() {
	if a.path == "" {
		return
	}
	f, err := openAppend(a.path)
	if err != nil {
		a.log.Error("audit log cannot be opened again", "err", err)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file != nil {
		_ = a.file.Close()
	}
	a.file, a.failed = f, false
}

func (a *audit) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file != nil {
		_ = a.file.Close()
		a.file = nil
	}
}
