package forward

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

const (
	requestTimeout = 10 * time.Second // for a SOCKS client to say what it wants
	proxyTimeout   = 30 * time.Second // for the proxy's answer
	maxReason      = 4 << 10
)

// SOCKS makes the port a SOCKS5 server (RFC 1928, CONNECT without a login) in
// front of the service of a proxy: names are passed on and resolved there.
func (p *Port) SOCKS() {
	p.front = func(ctx context.Context, local net.Conn) (net.Conn, error) {
		to, err := readSOCKS(local)
		if err != nil {
			return nil, err
		}
		conn, err := p.dial(ctx)
		if err != nil {
			answerSOCKS(local, socksGeneral)
			return nil, &answeredError{err}
		}
		conn, code, err := connectHTTP(ctx, conn, to)
		if err != nil {
			answerSOCKS(local, code)
			return nil, &answeredError{fmt.Errorf("%s: %w", to, err)}
		}
		answerSOCKS(local, socksOK)
		return conn, nil
	}
}

// Replies of RFC 1928, section 6.
const (
	socksOK          = 0
	socksGeneral     = 1
	socksNotAllowed  = 2
	socksUnreachable = 4
	socksRefused     = 5
	socksCommand     = 7
	socksAddress     = 8
)

// readSOCKS reads a client's greeting and request, and answers all but a
// CONNECT.
func readSOCKS(conn net.Conn) (to string, err error) {
	_ = conn.SetDeadline(time.Now().Add(requestTimeout))
	var head [4]byte
	if _, err := io.ReadFull(conn, head[:2]); err != nil {
		return "", fmt.Errorf("SOCKS greeting: %w", err)
	}
	if head[0] != 5 {
		return "", fmt.Errorf("SOCKS version %d, want 5", head[0])
	}
	methods := make([]byte, head[1])
	if _, err := io.ReadFull(conn, methods); err != nil {
		return "", fmt.Errorf("SOCKS greeting: %w", err)
	}
	if !strings.Contains(string(methods), "\x00") {
		_, _ = conn.Write([]byte{5, 0xff})
		return "", errors.New("the SOCKS client insists on a login; there is none")
	}
	if _, err := conn.Write([]byte{5, 0}); err != nil {
		return "", err
	}
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return "", fmt.Errorf("SOCKS request: %w", err)
	}
	host, code, err := readAddress(conn, head[3])
	if err == nil && head[1] != 1 {
		code, err = socksCommand, fmt.Errorf("SOCKS command %d, want CONNECT", head[1])
	}
	if err != nil {
		answerSOCKS(conn, code)
		return "", &answeredError{err}
	}
	var port [2]byte
	if _, err := io.ReadFull(conn, port[:]); err != nil {
		return "", fmt.Errorf("SOCKS request: %w", err)
	}
	return net.JoinHostPort(host, strconv.Itoa(int(binary.BigEndian.Uint16(port[:])))), nil
}

func readAddress(r io.Reader, kind byte) (host string, code byte, err error) {
	size := map[byte]int{1: 4, 4: 16}[kind]
	if kind == 3 {
		var n [1]byte
		if _, err := io.ReadFull(r, n[:]); err != nil {
			return "", socksGeneral, err
		}
		size = int(n[0])
	}
	if size == 0 {
		return "", socksAddress, fmt.Errorf("SOCKS address of kind %d", kind)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return "", socksGeneral, err
	}
	if addr, ok := netip.AddrFromSlice(b); ok && kind != 3 {
		return addr.String(), 0, nil
	}
	for _, c := range b { // it goes into a header
		if c <= ' ' || c > '~' {
			return "", socksAddress, errors.New("SOCKS name is not printable ASCII")
		}
	}
	return string(b), 0, nil
}

func answerSOCKS(conn net.Conn, code byte) {
	_, _ = conn.Write([]byte{5, code, 0, 1, 0, 0, 0, 0, 0, 0})
	_ = conn.SetDeadline(time.Time{})
}

// connectHTTP asks a proxy for a connection to host:port. It owns conn. code is
// the SOCKS reply to an error.
func connectHTTP(ctx context.Context, conn net.Conn, to string) (through net.Conn, code byte, err error) {
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	_ = conn.SetDeadline(time.Now().Add(proxyTimeout))
	fail := func(code byte, err error) (net.Conn, byte, error) {
		_ = conn.Close()
		return nil, code, err
	}
	if _, err := io.WriteString(conn, "CONNECT "+to+" HTTP/1.1\r\nHost: "+to+"\r\n\r\n"); err != nil {
		return fail(socksGeneral, err)
	}
	// A byte at a time: what follows the header belongs to the connection.
	header, err := readHeader(conn)
	if err != nil {
		return fail(socksGeneral, fmt.Errorf("the proxy's answer: %w", err))
	}
	resp, err := http.ReadResponse(bufio.NewReader(io.MultiReader(strings.NewReader(header), io.LimitReader(conn, maxReason))), &http.Request{Method: http.MethodGet})
	if err != nil {
		return fail(socksGeneral, fmt.Errorf("the proxy's answer: %w", err))
	}
	if resp.StatusCode/100 == 2 {
		_ = conn.SetDeadline(time.Time{})
		return conn, socksOK, nil
	}
	reason, _ := io.ReadAll(io.LimitReader(resp.Body, maxReason))
	code = map[int]byte{http.StatusForbidden: socksNotAllowed, http.StatusBadGateway: socksRefused, http.StatusGatewayTimeout: socksUnreachable}[resp.StatusCode]
	if code == 0 {
		code = socksGeneral
	}
	return fail(code, fmt.Errorf("the proxy answers %s: %s", resp.Status, strings.TrimSpace(string(reason))))
}

func readHeader(r io.Reader) (string, error) {
	var b strings.Builder
	one := make([]byte, 1)
	for !strings.HasSuffix(b.String(), "\r\n\r\n") {
		if b.Len() >= maxReason {
			return "", errors.New("its header is too long")
		}
		if _, err := io.ReadFull(r, one); err != nil {
			return "", err
		}
		b.WriteByte(one[0])
	}
	return b.String(), nil
}
