// Package client is the device's side of atls-ws: a session with a service
// behind a middlebox that the device has no reason to trust. The inner TLS
// connection, carried in WebSocket messages, authenticates both ends; the
// outer one is transport.
//
//	c, err := client.New(&client.Config{
//		URL: "https://cloud.example/.well-known/atls",
//		TLS: inner, // RootCAs, ServerName, Certificates: see Config
//	})
//	if err != nil { ... }
//	c.OnSignal("reboot", func(ctx context.Context, s client.Signal) (string, error) {
//		return "rebooting", nil // acks the signal with this text
//	})
//	err = c.Run(ctx) // connects, serves, reconnects, until ctx ends
//
// Dial makes one session, for programs that handle its end themselves. The
// package needs nothing but the standard library, coder/websocket and yamux.
package client
