// Package postconn carries a byte stream in the bodies of POST requests, for
// networks that let no WebSocket through (draft-friel-tls-over-http): a Conn is
// a net.Conn, with deadlines that the connection survives.
//
//	// the client
//	conn, err := postconn.Dial(ctx, "https://cloud.example"+postconn.DefaultPath, nil)
//
//	// the server
//	h := postconn.NewHandler(&postconn.HandlerOptions{
//		Accept: func(c *postconn.Conn, r *http.Request) {
//			defer c.Close()
//			if ready(c) {
//				c.Established()
//				serve(c)
//			}
//		},
//	})
//	defer h.Close()
//	http.Handle("POST "+postconn.DefaultPath, h)
//
// Each body has a place in its stream, Atls-Offset, and each request and answer
// says how much of the other direction has come, Atls-Ack. So requests and
// answers that are lost, repeated, reordered or parallel do no harm. One request
// is held by the server until there is something to say; bytes of the client go
// beside it. A client without these headers sends one request at a time, and a
// request acknowledges the answer before it. docs/PROTOCOL.md has the rules.
//
// The package knows nothing of what is carried. It verifies nobody: whoever
// answers the outer TLS is transport, a session's locator is no authority, and
// security is what the bytes bring along.
package postconn
