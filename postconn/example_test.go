package postconn_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"

	"github.com/atls-ws/atls-ws/postconn"
)

// A server echoes what a client sends.
func Example() {
	h := postconn.NewHandler(&postconn.HandlerOptions{
		Accept: func(c *postconn.Conn, _ *http.Request) {
			defer func() { _ = c.Close() }()
			c.Established()
			_, _ = io.Copy(c, c)
		},
	})
	srv := httptest.NewServer(h)
	defer srv.Close()
	defer func() { _ = h.Close() }()

	c, err := postconn.Dial(context.Background(), srv.URL+postconn.DefaultPath, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = c.Close() }()
	_, _ = io.WriteString(c, "hello")
	got := make([]byte, 5)
	_, err = io.ReadFull(c, got)
	fmt.Printf("%s %v\n", got, err)
	// Output: hello <nil>
}
