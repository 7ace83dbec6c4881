package daemon

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"
)

// A request whose body never comes is not waited for without end: net/http
// reads the body of an answered request, and has no bound of its own for that.
func TestAWithheldBodyIsNotWaitedFor(t *testing.T) {
	s := start(t, nil) // for its files
	cfg := *s.cfg
	cfg.Admin, cfg.Data = cfg.Admin+"2", cfg.Data+"2"
	d := &daemon{log: slog.New(slog.DiscardHandler), metrics: newMetrics()}
	defer d.close()
	if err := d.open(context.Background(), &cfg, Options{}); err != nil {
		t.Fatal(err)
	}
	d.outer.ReadTimeout /= 100 // 0 would stay 0
	d.wg.Go(func() { _ = d.outer.Serve(d.outerListener) })
	for _, request := range []string{
		"POST " + cfg.Path + " HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n",
		"POST /elsewhere HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
		"GET " + cfg.Path + " HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1000\r\n\r\n",
	} {
		conn, err := net.Dial("tcp", d.outerListener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = fmt.Fprint(conn, request)
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.Copy(io.Discard, conn); err != nil {
			t.Errorf("%q: %v", request, err)
		}
		_ = conn.Close()
	}
}
