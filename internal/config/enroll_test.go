package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/internal/pki"
)

func TestEnrollProblemsOfAServer(t *testing.T) {
	base := "inner: {cert: c, key: k, client_ca: a%s}\n"
	for yaml, want := range map[string]string{
		strings.ReplaceAll(base, "%s", ", factory_ca: f"):                                                           "inner.factory_ca: is for enrollment",
		strings.ReplaceAll(base, "%s", "") + "enroll: {tokens: t}\n":                                                "enroll.tokens: there is nobody who signs",
		strings.ReplaceAll(base, "%s", "") + "enroll: {cert: c}\n":                                                  "enroll.key: missing",
		strings.ReplaceAll(base, "%s", "") + "enroll: {cert: c, key: k, upstream: 'https://e'}\n":                   "enroll.upstream: cannot be used",
		strings.ReplaceAll(base, "%s", "") + "enroll: {upstream: 'http://e'}\n":                                     "enroll.upstream: want a URL that begins with https://",
		strings.ReplaceAll(base, "%s", "") + "enroll: {upstream: 'https://e', upstream_cert: c}\n":                  "enroll.upstream_key: missing",
		strings.ReplaceAll(base, "%s", "") + "enroll: {cert: c, key: k, lifetime: 1s}\n":                            "enroll.lifetime: must be at least 1m",
		strings.ReplaceAll(base, "%s", "") + "enroll: {cert: c, key: k}\nservices: {http: 'http://127.0.0.1:80'}\n": "services.http: cannot be used with enroll",
	} {
		_, err := LoadServer(write(t, "s.yaml", yaml))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s\ngot %v\nwant %s", yaml, err, want)
		}
	}
}

func TestEnrollProblemsOfADevice(t *testing.T) {
	for yaml, want := range map[string]string{
		"enroll: {factory_cert: f}\n":    "enroll.factory_key: missing",
		"enroll: {on: true, token: t}\n": "enroll.device: missing: a token is for one device id",
		"enroll: {device: 'a b'}\n":      `enroll.device: device id "a b"`,
		"enroll: {on: perhaps}\n":        "enroll.on: want true or false",
	} {
		_, err := LoadDevice(write(t, "d.yaml", minimalDevice+yaml))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\ngot %v\nwant %s", yaml, err, want)
		}
	}
}

func TestCheckOfADeviceThatIsToEnroll(t *testing.T) {
	dir := newPKI(t, 0)
	d := device(dir)
	d.Inner.Cert, d.Inner.Key = filepath.Join(dir, "new.pem"), filepath.Join(dir, "new-key.pem")
	if err := d.Check(); err == nil {
		t.Error("no certificate, and not to enroll")
	}
	d.Enroll = DeviceEnroll{On: true, Device: "pump-7"}
	var fe *FileError
	if err := d.Check(); !errors.As(err, &fe) || !strings.Contains(fe.Next, "pki token") {
		t.Errorf("nothing to enroll with: %v", err)
	}
	d.Enroll.Token = filepath.Join(dir, "token")
	if err := os.WriteFile(d.Enroll.Token, []byte(" secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Check(); err != nil {
		t.Error(err)
	}
	if _, token, err := d.Enroll.Secret(); err != nil || token != "secret" {
		t.Errorf("%q, %v", token, err)
	}
	d.Enroll.FactoryCert, d.Enroll.FactoryKey = pki.CertPath(dir, "nosuch"), pki.KeyPath(dir, "nosuch")
	if err := d.Check(); err == nil {
		t.Error("a factory certificate that is not there")
	}
}

func TestTokensFile(t *testing.T) {
	one := EnrollToken{Device: "pump-7", Sum: [32]byte{1}, Expires: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)}
	all, err := parseTokens([]byte("# tokens\n\n"+one.String()+" # a pump\n"), "f")
	if err != nil || len(all) != 1 || all[0] != one {
		t.Errorf("%v, %v", all, err)
	}
	sum := strings.Repeat("00", 32)
	for text, want := range map[string]string{
		"pump-7": "f:1: want ID sha256:SUM TIME",
		"pump/7 sha256:" + sum + " 2030-01-02T03:04:05Z": "f:1: device id",
		"pump-7 sha256:00 2030-01-02T03:04:05Z":          "f:1: the second word",
		"pump-7 " + sum + " 2030-01-02T03:04:05Z":        "f:1: the second word",
		"pump-7 sha256:" + sum + " tomorrow":             "f:1: the third word",
	} {
		if _, err := parseTokens([]byte(text), "f"); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func FuzzTokens(f *testing.F) {
	f.Add([]byte("pump-7 sha256:" + strings.Repeat("00", 32) + " 2030-01-02T03:04:05Z\n#"))
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := parseTokens(data, "f")
		if err != nil {
			return
		}
		var b strings.Builder
		for _, k := range all {
			b.WriteString(k.String() + "\n")
		}
		if again, err := parseTokens([]byte(b.String()), "f"); err != nil && !strings.Contains(b.String(), "+") || err == nil && len(again) != len(all) {
			t.Errorf("%v: %v", b.String(), err)
		}
	})
}
