package server

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/atls-ws/atls-ws/internal/session"
)

// hosted serves the application on the inner sessions' service http.
type hosted struct {
	srv  *http.Server
	done chan struct{}
}

func host(mux *Mux, app http.Handler, log *slog.Logger) (*hosted, error) {
	l, err := mux.Listen(ServiceHTTP)
	if err != nil {
		return nil, err
	}
	h := &hosted{done: make(chan struct{}), srv: &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return session.NewContext(ctx, conn.(*Stream).Session())
		},
		// net/http fills TLS from its own connections only; what the handler must
		// see is the inner state, by which the device was authenticated.
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if s, ok := FromContext(r.Context()); ok {
				state := s.ConnectionState()
				r.TLS = &state
			}
			app.ServeHTTP(w, r)
		}),
	}}
	go func() {
		defer close(h.done)
		_ = h.srv.Serve(l) // ends when close does
	}()
	return h, nil
}

func (h *hosted) close() {
	_ = h.srv.Close()
	<-h.done
}
