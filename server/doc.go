// Package server is the cloud side of atls-ws: an http.Handler to which devices
// connect from behind any middlebox, and through which the service pushes
// signals to them and opens connections into them.
//
//	s, err := server.New(&server.Config{TLS: inner}) // certificate and ClientCAs
//	if err != nil { ... }
//	http.Handle(server.DefaultPath, s)
//	...
//	reply, err := s.Push(ctx, "device-1", server.Signal{Name: "reboot"})
//
// An http.Server with TLS of its own serves best on Server.Listener: in a storm
// its handshakes take turns with those inside.
//
// A device's identity comes from its inner client certificate. Everything is
// denied by default: an end is reachable only by the services and signals of
// its Mux.
package server
