package client

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/atls-ws/atls-ws/internal/pki"
	"github.com/atls-ws/atls-ws/internal/session"
)

// authority is one for all tests: keys take time.
var authority = sync.OnceValue(func() *pki.CA {
	ca, err := pki.NewCA("test CA")
	if err != nil {
		panic(err)
	}
	return ca
})

func keyPair(tb testing.TB, p *pki.Pair, err error) []tls.Certificate {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
	c, err := p.TLS()
	if err != nil {
		tb.Fatal(err)
	}
	return []tls.Certificate{c}
}

func deviceTLS(tb testing.TB) *tls.Config {
	tb.Helper()
	p, err := authority().Device("device-1", 0)
	return &tls.Config{RootCAs: authority().Pool(), ServerName: pki.ServerName, Certificates: keyPair(tb, p, err)}
}

func serverTLS(tb testing.TB) *tls.Config {
	tb.Helper()
	p, err := authority().Server([]string{pki.ServerName}, 0)
	return &tls.Config{ClientCAs: authority().Pool(), Certificates: keyPair(tb, p, err)}
}

// carries is how a carrier behaves.
type carries struct {
	after time.Duration // until it is ready or fails
	err   error
	late  bool // it becomes ready although nobody waits any more
}

var never = carries{after: 24 * time.Hour}

func TestFirstReadyWins(t *testing.T) {
	deviceConf, serverConf := deviceTLS(t), serverTLS(t)
	then := time.Now() // a bubble's clock is elsewhere
	deviceConf.Time = func() time.Time { return then }
	serverConf.Time = deviceConf.Time

	broken := carries{err: errors.New("broken")}
	for _, tc := range []struct {
		name     string
		first    Carrier // WebSocket unless said
		ws, post carries
		won      Carrier // "" for none
		dialed   []Carrier
		took     time.Duration
		conclude bool // the error is the first one's alone
	}{
		{name: "websocket is ready", won: CarrierWebSocket, dialed: []Carrier{CarrierWebSocket}},
		{name: "websocket takes its time", ws: carries{after: 2 * time.Second}, won: CarrierWebSocket, dialed: []Carrier{CarrierWebSocket}, took: 2 * time.Second},
		{name: "websocket fails", ws: broken, won: CarrierPOST, dialed: []Carrier{CarrierWebSocket, CarrierPOST}},
		{name: "websocket fails late", ws: carries{after: 3 * time.Second, err: broken.err}, post: carries{after: time.Second},
			won: CarrierPOST, dialed: []Carrier{CarrierWebSocket, CarrierPOST}, took: headStart + time.Second},
		{name: "websocket is silent after its 101", ws: never, won: CarrierPOST, dialed: []Carrier{CarrierWebSocket, CarrierPOST}, took: headStart},
		{name: "websocket is slow, and post too", ws: carries{after: 4 * time.Second}, post: never,
			won: CarrierWebSocket, dialed: []Carrier{CarrierWebSocket, CarrierPOST}, took: 4 * time.Second},
		{name: "both are ready", ws: carries{after: 3 * time.Second, late: true},
			won: CarrierPOST, dialed: []Carrier{CarrierWebSocket, CarrierPOST}, took: 3 * time.Second},
		{name: "post is remembered", first: CarrierPOST, won: CarrierPOST, dialed: []Carrier{CarrierPOST}},
		{name: "post is remembered and fails", first: CarrierPOST, post: broken, won: CarrierWebSocket, dialed: []Carrier{CarrierPOST, CarrierWebSocket}},
		{name: "post is remembered and silent", first: CarrierPOST, post: never, won: CarrierWebSocket, dialed: []Carrier{CarrierPOST, CarrierWebSocket}, took: headStart},
		{name: "both fail", ws: broken, post: broken, dialed: []Carrier{CarrierWebSocket, CarrierPOST}},
		{name: "the server refuses", ws: carries{err: &RefusedError{Code: NotAllowed}}, dialed: []Carrier{CarrierWebSocket}, conclude: true},
		{name: "the proxy refuses", ws: carries{err: &CarrierError{Op: "proxy", StatusCode: http.StatusProxyAuthRequired}}, dialed: []Carrier{CarrierWebSocket}, conclude: true},
		{name: "no such host", ws: carries{err: &CarrierError{Err: &net.DNSError{}}}, dialed: []Carrier{CarrierWebSocket}, conclude: true},
		{name: "nothing listens", ws: carries{err: &CarrierError{Err: &net.OpError{Op: "dial"}}}, dialed: []Carrier{CarrierWebSocket}, conclude: true},
		{name: "the SOCKS proxy refuses", ws: carries{err: &CarrierError{Err: &net.OpError{Op: "socks connect"}}}, dialed: []Carrier{CarrierWebSocket}, conclude: true},
		{name: "the outer certificate does not verify", ws: carries{err: &CarrierError{Err: &tls.CertificateVerificationError{}}}, dialed: []Carrier{CarrierWebSocket}, conclude: true},
		{name: "a box answers 403 to the upgrade", ws: carries{err: &CarrierError{StatusCode: 403}}, won: CarrierPOST, dialed: []Carrier{CarrierWebSocket, CarrierPOST}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			runtime.GC() // yamux keeps timers in a pool; none may cross a bubble's border
			runtime.GC()
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				var dialed []Carrier
				var made []*Session
				dial := func(ctx context.Context, kind Carrier) (*Session, error) {
					mu.Lock()
					dialed = append(dialed, kind)
					mu.Unlock()
					how := tc.ws
					if kind == CarrierPOST {
						how = tc.post
					}
					end := ctx.Done()
					if how.late {
						end = nil
					}
					select {
					case <-time.After(how.after):
					case <-end:
						return nil, ctx.Err()
					}
					if how.err != nil {
						return nil, how.err
					}
					s := pipeSession(t, kind, deviceConf, serverConf)
					mu.Lock()
					made = append(made, s)
					mu.Unlock()
					return s, nil
				}
				if tc.first == "" {
					tc.first = CarrierWebSocket
				}
				began := time.Now()
				s, err := race(t.Context(), tc.first, dial)
				if took := time.Since(began); took.Round(10*time.Millisecond) != tc.took {
					t.Errorf("it took %s, want %s", took, tc.took)
				}
				if !slices.Equal(dialed, tc.dialed) {
					t.Errorf("dialed %v, want %v", dialed, tc.dialed)
				}
				var both *CarriersError
				switch {
				case tc.won == "" && err == nil, tc.won != "" && err != nil:
					t.Fatalf("error %v", err)
				case tc.won == "" && errors.As(err, &both) == tc.conclude:
					t.Errorf("error %v", err)
				case tc.won != "" && s.Hello().Carrier != string(tc.won):
					t.Errorf("%s won, want %s", s.Hello().Carrier, tc.won)
				}
				for _, m := range made {
					if (m.Err() == nil) != (m == s) {
						t.Errorf("the session over %s: %v", m.Hello().Carrier, m.Err())
					}
					_ = m.Close()
				}
			})
			runtime.GC()
			runtime.GC()
		})
	}
}

// pipeSession is the device's end of a session that says it is over a carrier.
func pipeSession(t *testing.T, kind Carrier, deviceConf, serverConf *tls.Config) *Session {
	t.Helper()
	a, b := net.Pipe()
	served := make(chan *Session, 1)
	go func() {
		s, err := session.Server(context.Background(), b, &session.Config{TLS: serverConf})
		if err != nil {
			t.Error(err)
		}
		served <- s
	}()
	s, err := session.Client(context.Background(), a, &session.Config{TLS: deviceConf, Hello: func() session.Hello { return session.Hello{Carrier: string(kind)} }})
	if err != nil {
		t.Fatal(err)
	}
	server := <-served
	t.Cleanup(func() { _ = server.Close() })
	return s
}

func TestRaceEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		dials := 0
		_, err := race(ctx, CarrierWebSocket, func(ctx context.Context, _ Carrier) (*Session, error) {
			dials++
			<-ctx.Done()
			return nil, ctx.Err()
		})
		if !errors.Is(err, context.DeadlineExceeded) || dials != 1 {
			t.Errorf("%v after %d dials", err, dials)
		}
	})
}
