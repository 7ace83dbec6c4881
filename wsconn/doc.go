// Package wsconn carries a byte stream in WebSocket binary messages: a Conn is
// a net.Conn, with deadlines that the connection survives.
//
//	// the dialler
//	conn, err := wsconn.Dial(ctx, "wss://cloud.example"+wsconn.DefaultPath, nil)
//
//	// the server
//	http.HandleFunc(wsconn.DefaultPath, func(w http.ResponseWriter, r *http.Request) {
//		conn, err := wsconn.Accept(w, r, nil)
//		if err != nil {
//			return // r is answered
//		}
//		go serve(conn) // the handler may return
//	})
//
// The package knows nothing of what is carried. It verifies nobody: whoever
// answers the outer TLS is transport, and security is what the bytes bring
// along.
package wsconn
