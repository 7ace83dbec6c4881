package session

import (
	"fmt"
	"slices"
	"strings"

	"github.com/atls-ws/atls-ws/internal/sealed"
)

const maxExported = 255 * 32 // what HKDF-Expand with SHA-256 can give

// reservedLabels are those of TLS itself (RFC 5705 section 6).
var reservedLabels = []string{"client finished", "server finished", "master secret", "extended master secret", "key expansion"}

// ExportKeyingMaterial returns length bytes that both ends of this session can
// make and nobody else (RFC 5705, RFC 8446 section 7.5). Another label or
// context gives other bytes, and so does another session. A label of one's own
// begins with EXPERIMENTAL (RFC 5705 section 4); those of TLS and of this
// protocol are refused. nil context is the same as an empty one.
func (s *Session) ExportKeyingMaterial(label string, context []byte, length int) ([]byte, error) {
	switch {
	case label == "":
		return nil, fmt.Errorf("exporter: no label")
	case slices.Contains(reservedLabels, label), strings.HasPrefix(label, sealed.LabelPrefix):
		return nil, fmt.Errorf("exporter: label %q is reserved", label)
	case length < 1 || length > maxExported:
		return nil, fmt.Errorf("exporter: %d bytes, want 1 to %d", length, maxExported)
	}
	state := s.inner.ConnectionState()
	return state.ExportKeyingMaterial(label, context, length)
}

// NextSealed numbers the sealed requests of a session, from 1.
func NextSealed(s *Session) uint64 { return s.sealedCount.Add(1) }
