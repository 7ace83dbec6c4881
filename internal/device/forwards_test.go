//go:build unix

package device

import (
	"context"
	"io"
	"log/slog"
	"net"
	"regexp"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/server"
)

func TestLocalPortLeadsToAServiceOfTheServer(t *testing.T) {
	up := make(chan *server.Session, 1)
	_, cfg := site(t, func(s *server.Session) {
		select {
		case up <- s:
		default:
		}
	})
	cfg.Forwards = []config.Forward{{Listen: "127.0.0.1:0", Service: "absent"}}
	for _, once := range []bool{false, true} {
		var log lines
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- Run(ctx, cfg, Options{Logger: slog.New(slog.NewTextHandler(&log, nil)), Once: once}) }()
		<-up
		var addr []string
		for addr == nil {
			log.mu.Lock()
			addr = regexp.MustCompile(`forwarding addr=(\S+)`).FindStringSubmatch(log.b.String())
			log.mu.Unlock()
			time.Sleep(time.Millisecond)
		}
		// The server has no such service: the connection is reset, and the log says why.
		if c, err := net.Dial("tcp", addr[1]); err == nil {
			if _, err := io.ReadAll(c); err == nil {
				t.Error("an orderly end")
			}
			_ = c.Close()
		}
		for !log.has("no service absent") {
			time.Sleep(time.Millisecond)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}
