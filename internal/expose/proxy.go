package expose

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/session"
)

const (
	requestTimeout = 10 * time.Second
	maxRequest     = 16 << 10
	maxAddresses   = 16 // of a name that are tried
)

// serveProxy is an HTTP proxy for one CONNECT request. Which destinations it
// takes is decided by their addresses, and the address that was decided on is
// the one that is connected to.
func serveProxy(ctx context.Context, conn net.Conn, allow config.Destinations, log *slog.Logger) error {
	defer func() { _ = conn.Close() }()
	_ = conn.SetReadDeadline(time.Now().Add(requestTimeout))
	limited := &io.LimitedReader{R: conn, N: maxRequest}
	ahead := bufio.NewReader(limited)
	req, err := http.ReadRequest(ahead)
	if err != nil {
		return answer(conn, http.StatusBadRequest, "want a CONNECT request: "+err.Error())
	}
	if req.Method != http.MethodConnect {
		return answer(conn, http.StatusMethodNotAllowed, "this is a proxy for CONNECT alone: give it https or another protocol over TCP, or use SOCKS5 through: atls-ws forward --socks")
	}
	to, code, err := dialAllowed(ctx, req.Host, allow)
	if err != nil {
		level := slog.LevelInfo
		if code == http.StatusForbidden {
			level = slog.LevelWarn
		}
		log.Log(ctx, level, "proxy refuses", "to", req.Host, "err", err)
		return answer(conn, code, err.Error())
	}
	defer context.AfterFunc(ctx, func() { _ = to.Close() })()
	log.Info("proxy connects", "to", req.Host, "addr", to.RemoteAddr().String())
	_ = conn.SetDeadline(time.Time{})
	if _, err := io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		_ = to.Close()
		return err
	}
	limited.N = 1 << 62 // what was read ahead comes first, then the connection without a limit
	return session.Splice(&readAhead{conn, ahead}, to)
}

// answer ends the connection with a refusal that a person can read.
func answer(conn net.Conn, code int, text string) error {
	_, err := fmt.Fprintf(conn, "HTTP/1.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s\n",
		code, http.StatusText(code), len(text)+1, text)
	return errors.Join(errors.New(text), err)
}

// dialAllowed connects to host:port. code is the answer to an error.
func dialAllowed(ctx context.Context, hostport string, allow config.Destinations) (conn net.Conn, code int, err error) {
	host, text, err := net.SplitHostPort(hostport)
	port, perr := strconv.ParseUint(text, 10, 16)
	if err != nil || perr != nil || port == 0 || host == "" {
		return nil, http.StatusBadRequest, fmt.Errorf("destination %q: want host:port", hostport)
	}
	if err := allow.Named(host, uint16(port)); err != nil {
		return nil, http.StatusForbidden, fmt.Errorf("not allowed: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	addrs, err := lookup(ctx, host)
	if err != nil {
		return nil, http.StatusBadGateway, fmt.Errorf("name %s: %w", host, err)
	}
	var refused, failed error
	for _, addr := range addrs[:min(len(addrs), maxAddresses)] {
		to := netip.AddrPortFrom(addr.Unmap(), uint16(port))
		if err := allow.Check(host, to); err != nil {
			refused = err
			continue
		}
		if conn, err = new(net.Dialer).DialContext(ctx, "tcp", to.String()); err == nil {
			return conn, 0, nil
		}
		failed = err
	}
	switch {
	case failed != nil && errors.Is(failed, context.DeadlineExceeded):
		return nil, http.StatusGatewayTimeout, fmt.Errorf("%s does not answer: %w", hostport, failed)
	case failed != nil:
		return nil, http.StatusBadGateway, fmt.Errorf("%s: %w", hostport, failed)
	}
	return nil, http.StatusForbidden, fmt.Errorf("not allowed: %w", refused)
}

// lookup resolves a name where the proxy is.
func lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr}, nil
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err == nil && len(addrs) == 0 {
		err = errors.New("it has no address")
	}
	return addrs, err
}

// readAhead is a connection of which something has been read already.
type readAhead struct {
	net.Conn
	r io.Reader
}

func (c *readAhead) Read(p []byte) (int, error) { return c.r.Read(p) }

// CloseWrite passes the half-close on.
func (c *readAhead) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}

// Reset passes a failure on.
func (c *readAhead) Reset() {
	if r, ok := c.Conn.(interface{ Reset() }); ok {
		r.Reset()
	}
}
