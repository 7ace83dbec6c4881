package session

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"

	"github.com/atls-ws/atls-ws/internal/proto"
)

// ClientHTTP makes the device's end of a connection of atls-http/1 on conn, which
// it then owns: on an error it is closed. A configuration without a certificate
// asks to enroll by a token. ctx bounds the making. Whether the server accepts the
// certificate is seen in its first answer.
func ClientHTTP(ctx context.Context, conn net.Conn, c *tls.Config) (*tls.Conn, error) {
	t := tighten(c, proto.ALPNHTTP)
	if t.GetClientCertificate == nil {
		t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if len(t.Certificates) == 0 {
				return new(tls.Certificate), nil
			}
			return &t.Certificates[0], nil
		}
	}
	if err := CheckClientTLS(t); err != nil {
		_ = conn.Close()
		return nil, err
	}
	tc := tls.Client(conn, t)
	err := greet(ctx, conn, nil, func() error {
		if err := tc.HandshakeContext(ctx); err != nil {
			return fmt.Errorf("inner handshake: %w", remoteAlert(err))
		}
		if p := tc.ConnectionState().NegotiatedProtocol; p != proto.ALPNHTTP {
			return fmt.Errorf("inner handshake: server negotiated ALPN %q, want %q", p, proto.ALPNHTTP)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return tc, nil
}

// withGuests lets peers in without a certificate that offer atls-http/1 and not
// atls-mux/1. t is the caller's own.
func withGuests(t *tls.Config) *tls.Config {
	strict := t.Clone() // of which a guest's is made
	t.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		c := strict
		if get := strict.GetConfigForClient; get != nil {
			chosen, err := get(h)
			if err != nil {
				return nil, err
			}
			if chosen != nil {
				c = chosen
			}
		}
		if slices.Contains(h.SupportedProtos, proto.ALPNMux) || !slices.Contains(h.SupportedProtos, proto.ALPNHTTP) {
			if c == strict {
				return nil, nil // t itself
			}
			return c, nil
		}
		c = c.Clone()
		c.GetConfigForClient = nil
		c.ClientAuth, c.NextProtos = tls.VerifyClientCertIfGiven, []string{proto.ALPNHTTP}
		return c, nil
	}
	return t
}

// Alert marks the errors that crypto/tls makes of the peer's alerts, in what a
// connection of ClientHTTP gives.
func Alert(err error) error { return remoteAlert(err) }
