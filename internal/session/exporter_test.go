package session

import (
	"bytes"
	"testing"
)

func sessions(t *testing.T) ends {
	t.Helper()
	a, b := tcpPipe(t)
	return connect(t, a, b, nil, nil)
}

func TestExportedKeysAreTheSameAtBothEndsAndNowhereElse(t *testing.T) {
	one := sessions(t)
	a, b := one.client, one.server
	other := sessions(t).client
	const label = "EXPERIMENTAL example"
	seen := map[string]bool{}
	for _, c := range []struct {
		s       *Session
		label   string
		context []byte
	}{{a, label, nil}, {a, label, []byte("x")}, {a, label + "2", nil}, {other, label, nil}} {
		k, err := c.s.ExportKeyingMaterial(c.label, c.context, 32)
		if err != nil || len(k) != 32 || seen[string(k)] {
			t.Errorf("%q: %x, %v", c.label, k, err)
		}
		seen[string(k)] = true
		if c.s != a {
			continue
		}
		if theirs, err := b.ExportKeyingMaterial(c.label, c.context, 32); err != nil || !bytes.Equal(theirs, k) {
			t.Errorf("%q: %x at the other end, %v", c.label, theirs, err)
		}
	}
}

func TestReservedLabelsAreNotExported(t *testing.T) {
	s := sessions(t).client
	for _, label := range []string{"", "client finished", "server finished", "master secret", "extended master secret", "key expansion", "EXPORTER-atls-ws-sealed-http"} {
		if k, err := s.ExportKeyingMaterial(label, nil, 32); err == nil {
			t.Errorf("%q: %x", label, k)
		}
	}
	for _, n := range []int{-1, 0, maxExported + 1} {
		if k, err := s.ExportKeyingMaterial("EXPERIMENTAL x", nil, n); err == nil {
			t.Errorf("%d bytes: %x", n, k)
		}
	}
	if k, err := s.ExportKeyingMaterial("EXPERIMENTAL x", nil, maxExported); err != nil || len(k) != maxExported {
		t.Errorf("%d, %v", len(k), err)
	}
}
