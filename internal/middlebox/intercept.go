package middlebox

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// intercept puts itself between the client c and host. The error says why it
// could not; once bytes pass it returns nil.
func (p *Proxy) intercept(c net.Conn, host string, e *Exchange) error {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		answer(c, http.StatusBadRequest, "the target has no port")
		return err
	}
	ctx, cancel := context.WithTimeout(p.ctx, handshakeTime)
	defer cancel()
	real, err := (&tls.Dialer{Config: p.outward(name)}).DialContext(ctx, "tcp", host)
	if err != nil {
		answer(c, http.StatusBadGateway, "the middlebox cannot reach "+host)
		return fmt.Errorf("real server: %w", err)
	}
	if !p.hold(real, 2*p.conf.Conns+1) { // never the limit: each client holds one
		_ = real.Close()
		return net.ErrClosed
	}
	defer p.release(real)

	if _, err := io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return err
	}
	forged := tls.Server(c, &tls.Config{
		NextProtos: []string{"http/1.1"},
		GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if h.ServerName != "" {
				return p.ca.leaf(h.ServerName)
			}
			return p.ca.leaf(name) // no SNI for an IP address
		},
	})
	if err := forged.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("client: %w", err)
	}
	_ = c.SetDeadline(time.Time{})
	p.pass(forged, real.(*tls.Conn), e)
	return nil
}

// outward is the box's TLS towards the real server.
func (p *Proxy) outward(name string) *tls.Config {
	c := &tls.Config{InsecureSkipVerify: true} //nolint:gosec // the box stands for one that is not trusted
	if p.conf.TLS != nil {
		c = p.conf.TLS.Clone()
	}
	c.NextProtos = []string{"http/1.1"}
	if c.ServerName == "" {
		c.ServerName = name
	}
	return c
}

// pass copies both ways with half-close until both directions have ended.
func (p *Proxy) pass(client, server *tls.Conn, e *Exchange) {
	var wg sync.WaitGroup
	one := func(dst, src *tls.Conn, kept *[]byte) {
		if err := p.copy(dst, src, kept); err != nil {
			_ = client.Close()
			_ = server.Close()
			return
		}
		_ = dst.CloseWrite()
	}
	wg.Go(func() { one(server, client, &e.Sent) })
	wg.Go(func() { one(client, server, &e.Received) })
	wg.Wait()
}

// copy is io.Copy with a record and an idle bound.
func (p *Proxy) copy(dst, src *tls.Conn, kept *[]byte) error {
	buf := make([]byte, 32<<10)
	for {
		_ = src.SetReadDeadline(time.Now().Add(idleTime))
		n, err := src.Read(buf)
		if n > 0 {
			p.record(kept, buf[:n])
			_ = dst.SetWriteDeadline(time.Now().Add(idleTime))
			if _, err := dst.Write(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (p *Proxy) record(kept *[]byte, b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if room := p.conf.Record - len(*kept); room > 0 {
		*kept = append(*kept, b[:min(room, len(b))]...)
	}
}
