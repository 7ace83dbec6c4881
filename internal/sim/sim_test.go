package sim

import (
	"context"
	"crypto/tls"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/leak"
	"github.com/atls-ws/atls-ws/internal/pki"
	"github.com/atls-ws/atls-ws/server"
)

func TestMain(m *testing.M) { leak.Main(m) }

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestDevicesConnectAndAnswer(t *testing.T) {
	ca := must[*pki.CA](t)(pki.NewCA("CA"))
	cert := must[tls.Certificate](t)(must[*pki.Pair](t)(ca.Server(nil, 0)).TLS())
	srv := must[*server.Server](t)(server.New(&server.Config{TLS: &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: ca.Pool()}}))
	web := httptest.NewServer(srv)
	defer web.Close()
	defer func() { _ = srv.Close() }()
	f := must[*Fleet](t)(New(Options{URL: web.URL, CA: ca, Count: 10, Handle: func(device string, s client.Signal) (string, error) { return device + " " + s.Name, nil }}))
	ctx, cancel := context.WithCancel(t.Context())
	var run sync.WaitGroup
	run.Go(func() { f.Run(ctx, 0, 10, 1000) })
	defer run.Wait()
	defer cancel()
	for srv.Registry().Len() < 10 {
		time.Sleep(time.Millisecond)
	}
	if reply := must[string](t)(srv.Push(ctx, f.ID(3), server.Signal{Name: "do"})); reply != "sim-3 do" {
		t.Errorf("%q", reply)
	}
	if s := f.Stats(); s.Up != 10 || s.Sessions != 10 || s.Signals != 1 || s.Connect.P50 <= 0 || s.ConnectsPerSecond <= 0 {
		t.Errorf("%+v", s)
	}
}
