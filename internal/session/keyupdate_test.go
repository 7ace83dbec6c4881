package session

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"reflect"
	"testing"
	"testing/synctest"
	"time"
)

// requestKey sends a KeyUpdate that asks for one (RFC 8446 section 4.6.3), which
// crypto/tls answers and never sends. c can send nothing after it.
func requestKey(t *testing.T, c *Session) {
	t.Helper()
	if s := c.ConnectionState().CipherSuite; s != tls.TLS_AES_128_GCM_SHA256 {
		t.Skip("another cipher suite:", tls.CipherSuiteName(s))
	}
	out := reflect.ValueOf(c.inner).Elem().FieldByName("out")
	secret, seq := out.FieldByName("trafficSecret").Bytes(), out.FieldByName("seq")
	derive := func(label string, n int) []byte {
		label = "tls13 " + label
		b, err := hkdf.Expand(sha256.New, secret, "\x00"+string(rune(n))+string(rune(len(label)))+label+"\x00", n)
		check(err)
		return b
	}
	block, err := aes.NewCipher(derive("key", 16))
	check(err)
	gcm, err := cipher.NewGCM(block)
	check(err)
	nonce := derive("iv", 12)
	for i := range 8 {
		nonce[4+i] ^= byte(seq.Index(i).Uint())
	}
	message := []byte{24, 0, 0, 1, 1, 22} // key_update, its length, update_requested; a handshake record
	head := []byte{23, 3, 3, 0, byte(len(message) + gcm.Overhead())}
	if _, err := c.carrier.Write(gcm.Seal(head, nonce, message, head)); err != nil {
		t.Fatal(err)
	}
}

// A session at rest answers like any other, and goes on resting.
func TestKeyUpdateAtRest(t *testing.T) {
	restBubble(t, func(t *testing.T, e ends) {
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		requestKey(t, e.client)
		synctest.Wait()
		if e.server.Err() != nil || !resting(e.server) {
			t.Errorf("server: %v, resting %v", e.server.Err(), resting(e.server))
		}
		time.Sleep(time.Millisecond)
		e.server.frames.ping(0)
		synctest.Wait()
		if at := time.Unix(0, e.client.frames.lastRead.Load()); !at.Equal(time.Now()) {
			t.Errorf("what the server sends with the new key is not read: %v", e.client.Err())
		}
	})
}
