package fleet

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// Subjects: a device's id is one token of them, and so is a signal's id.
const (
	signalSubject = "sig"    // sig.<device>: a signal in the device's queue
	bellSubject   = "bell"   // bell.<device>: the same without data, when it has been stored
	sendSubject   = "snd"    // snd.<signal>.<part>: to whom it was sent
	outSubject    = "out"    // out.<signal>.<device>: what became of it
	doneSubject   = "done"   // done.<signal>.<device>: the same, when it has been stored
	deviceSubject = "dev"    // dev.<device>: what is known of the device
	cloudSubject  = "cloud"  // cloud.<device>.<name>: a signal of the device
	denySubject   = "deny"   // deny.<device>: that it is denied, or allowed again
	deniedSubject = "denied" // denied.<device>: the same without data, when it has been stored
	eventSubject  = "event"  // event.<node>: something that happened there
)

// token makes one token of a name in printable ASCII: what is not plain is =
// and two hex digits, as in quoted-printable, so different names differ.
func token(name string) string {
	plain := true
	for i := range len(name) {
		plain = plain && isPlain(name[i])
	}
	if plain {
		return name
	}
	var b strings.Builder
	for i := range len(name) {
		if isPlain(name[i]) {
			b.WriteByte(name[i])
		} else {
			fmt.Fprintf(&b, "=%02X", name[i])
		}
	}
	return b.String()
}

func isPlain(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == ':'
}

// name is the inverse of token.
func name(token string) string {
	if !strings.Contains(token, "=") {
		return token
	}
	var b strings.Builder
	for i := 0; i < len(token); i++ {
		if token[i] == '=' && i+2 < len(token) {
			if c, err := hex.DecodeString(token[i+1 : i+3]); err == nil {
				b.Write(c)
				i += 2
				continue
			}
		}
		b.WriteByte(token[i])
	}
	return b.String()
}
