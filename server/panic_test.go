package server_test

import (
	"crypto/tls"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/server"
)

// A program's mistake in a hook or a decision costs a connection, and not the
// turns, the places, and the end of the server.
func TestPanicsLeaveNothingBehind(t *testing.T) {
	for _, carrier := range []client.Carrier{client.CarrierWebSocket, client.CarrierPOST} {
		for _, tt := range []struct {
			name string
			cfg  func(fail func()) *server.Config
		}{
			{"Connected", func(fail func()) *server.Config {
				return &server.Config{Hooks: server.Hooks{Connected: func(*server.Session) { fail() }}}
			}},
			{"Admit", func(fail func()) *server.Config {
				return &server.Config{Admit: func(string, tls.ConnectionState) error { fail(); return nil }}
			}},
			{"Admit, asked again", func(fail func()) *server.Config {
				var asked atomic.Int32
				return &server.Config{Admit: func(string, tls.ConnectionState) error {
					if asked.Add(1)%2 == 0 {
						fail()
					}
					return nil
				}}
			}},
		} {
			t.Run(string(carrier)+" "+tt.name, func(t *testing.T) {
				var fails atomic.Bool
				fails.Store(true)
				fail := func() {
					if fails.Load() {
						panic(tt.name)
					}
				}
				s := newSite(t, tt.cfg(fail))
				cfg := s.config(t, "device-1")
				cfg.Carrier = carrier
				for range 2*runtime.GOMAXPROCS(0) + 1 { // more than there are turns
					if sess, err := client.Dial(t.Context(), cfg); err == nil {
						_ = sess.Close()
					}
				}
				eventually(t, func() bool { n := s.srv.Stats(); return n.Sessions+n.HalfOpen == 0 && s.srv.Registry().Len() == 0 })
				fails.Store(false)
				_ = s.dial(t, cfg).Close()
			})
		}
	}
}
