package client

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func leafFor(t *testing.T, key crypto.Signer, serial int64) *x509.Certificate {
	t.Helper()
	c := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return c
}

// A crash between any two steps leaves a pair that fits, the old or the new one.
func TestIdentityIsWholeWhereverAnInstallEnds(t *testing.T) {
	dir := t.TempDir()
	f := identity{filepath.Join(dir, "d.pem"), filepath.Join(dir, "d-key.pem")}
	install := func(serial int64) {
		t.Helper()
		key, err := f.nextKey()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.install([]*x509.Certificate{leafFor(t, key, serial)}); err != nil {
			t.Fatal(err)
		}
	}
	install(1)
	// The next one, stopped short: its files stand beside the old ones.
	key, err := f.nextKey()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := f.nextKey(); err != nil || !again.(interface{ Equal(crypto.PrivateKey) bool }).Equal(key) {
		t.Errorf("the key is not used again: %v", err)
	}
	if got, err := f.load(); err != nil || got.Leaf.SerialNumber.Int64() != 1 {
		t.Fatalf("with a new key alone: %v", err)
	}
	if err := writeWhole(f.cert+newSuffix, pemOf(leafFor(t, key, 2)), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := f.load(); err != nil || got.Leaf.SerialNumber.Int64() != 2 {
		t.Fatalf("with both new files: %v", err)
	}
	// Now the key is in its place and the certificate is not yet.
	if err := os.Rename(f.cert, f.cert+newSuffix); err != nil {
		t.Fatal(err)
	}
	if got, err := f.load(); err != nil || got.Leaf.SerialNumber.Int64() != 2 {
		t.Fatalf("with the new key in place: %v", err)
	}
	if err := os.WriteFile(f.cert+newSuffix, []byte("-----BEGIN CERT"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := f.load(); err != nil || got.Leaf.SerialNumber.Int64() != 2 {
		t.Fatalf("with half a new certificate: %v", err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 {
		t.Errorf("%v, %v", left, err)
	}
}

func TestRenewalTimes(t *testing.T) {
	now := time.Now()
	e := &Enrollment{}
	c := &x509.Certificate{NotBefore: now.Add(-time.Hour), NotAfter: now.Add(89 * time.Hour)}
	e.current.Store(&tls.Certificate{Leaf: c})
	if at := e.renewAt(time.Time{}); at.Before(now.Add(59*time.Hour)) || at.After(now.Add(61*time.Hour)) {
		t.Errorf("at %v", at.Sub(now))
	}
	// An authority whose certificates have begun long ago is not asked all the time.
	c.NotBefore = now.Add(-1000 * time.Hour)
	if at := e.renewAt(now); at.Before(now.Add(100 * time.Hour)) {
		t.Errorf("again after %v", at.Sub(now))
	}
	c.NotBefore, c.NotAfter = now, now.Add(90*24*time.Hour)
	for n, want := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute} {
		if d := e.retryIn(n, ErrClock); d < want*9/10 || d > want*11/10 {
			t.Errorf("failure %d: %v", n, d)
		}
	}
	if d := e.retryIn(60, ErrClock); d > 7*time.Hour {
		t.Errorf("the slowest: %v", d)
	}
	if d := e.retryIn(0, &EnrollError{RetryAfter: time.Hour}); d < 54*time.Minute {
		t.Errorf("asked to wait an hour: %v", d)
	}
}
