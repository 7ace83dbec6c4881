package session

import (
	"context"
	"net"
	"net/http"
	"time"
)

// Transport sends HTTP/1.1 requests over connections that dial makes. The
// inner session is the security: https URLs are refused.
func Transport(dial func(context.Context) (net.Conn, error)) *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
			return nil, errHTTPS
		},
		MaxIdleConnsPerHost: 2,
		IdleConnTimeout:     30 * time.Second,
		DisableCompression:  true,
	}
}
