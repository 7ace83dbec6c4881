//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"
	"testing"
)

// Content types of TLS records, RFC 8446, 5.1, and types of handshake messages, 4.
const (
	recordAlert     = 21
	recordHandshake = 22
	recordData      = 23

	handshakeClientHello = 1
	handshakeTicket      = 4
	handshakeCert        = 11
	handshakeKeyUpdate   = 24
)

// sealer makes the records of an inner client by hand, of any content type. It
// begins where the handshake has ended: crypto/tls must not write any more.
type sealer struct {
	t      *testing.T
	hash   func() hash.Hash
	keyLen int
	secret []byte
	seq    uint64
}

// newSealer reads the secret that a tls.Config's KeyLogWriter wrote.
func newSealer(t *testing.T, state tls.ConnectionState, log []byte) *sealer {
	t.Helper()
	s := &sealer{t: t}
	switch state.CipherSuite {
	case tls.TLS_AES_128_GCM_SHA256:
		s.hash, s.keyLen = sha256.New, 16
	case tls.TLS_AES_256_GCM_SHA384:
		s.hash, s.keyLen = sha512.New384, 32
	default:
		t.Skip("this machine has no hardware for AES, so the inner TLS uses ChaCha20")
	}
	lines := bufio.NewScanner(bytes.NewReader(log))
	for lines.Scan() {
		if f := strings.Fields(lines.Text()); f[0] == "CLIENT_TRAFFIC_SECRET_0" {
			s.secret, _ = hex.DecodeString(f[2])
		}
	}
	if s.secret == nil {
		t.Fatal("no secret")
	}
	return s
}

// expand is HKDF-Expand-Label of RFC 8446, 7.1, without context.
func (s *sealer) expand(label string, length int) []byte {
	label = "tls13 " + label
	info := fmt.Sprintf("%s%c%s\x00", binary.BigEndian.AppendUint16(nil, uint16(length)), len(label), label)
	out, err := hkdf.Expand(s.hash, s.secret, info, length)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// record is the next one, sealed.
func (s *sealer) record(typ byte, content []byte) []byte {
	block, err := aes.NewCipher(s.expand("key", s.keyLen))
	if err != nil {
		s.t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		s.t.Fatal(err)
	}
	nonce := s.expand("iv", aead.NonceSize())
	for i := range 8 {
		nonce[len(nonce)-1-i] ^= byte(s.seq >> (8 * i))
	}
	s.seq++
	head := binary.BigEndian.AppendUint16([]byte{recordData, 3, 3}, uint16(len(content)+1+aead.Overhead()))
	return aead.Seal(head, nonce, append(bytes.Clone(content), typ), head[:5:5])
}

// handshake is a record with one handshake message.
func (s *sealer) handshake(typ byte, body []byte) []byte {
	n := len(body)
	return s.record(recordHandshake, append([]byte{typ, byte(n >> 16), byte(n >> 8), byte(n)}, body...))
}

// keyUpdate says that new keys follow, and asks the peer for new ones or not.
func (s *sealer) keyUpdate(ask byte) []byte {
	r := s.handshake(handshakeKeyUpdate, []byte{ask})
	s.secret, s.seq = s.expand("traffic upd", s.hash().Size()), 0
	return r
}
