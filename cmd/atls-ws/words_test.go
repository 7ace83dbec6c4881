//go:build !device

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/session"
)

func TestReportSaysEachErrorWithItsNextStep(t *testing.T) {
	for _, tc := range []struct {
		name string
		err  error
		code int
		want string
	}{
		{"none", nil, 0, ""},
		{"plain", errors.New("broken"), 1, "atls-ws: broken\n"},
		{"next", withNext(errors.New("broken"), "mend it"), 1, "atls-ws: broken\n  next: mend it\n"},
		{"wrapped", fmt.Errorf("a: %w", withNext(errors.New("b"), "c")), 1, "atls-ws: a: b\n  next: c\n"},
		{"usage", &usageError{errors.New("no"), "see help"}, 2, "atls-ws: no\n  next: see help\n"},
		{"cli.Exit", cli.Exit("no\nnext: see help", 2), 2, "atls-ws: no\n  next: see help\n"},
		{"joined", errors.Join(&config.FileError{File: "a", Err: errors.New("gone"), Next: "make it"}, withNext(errors.New("b"), "c")), 1,
			"atls-ws: a: gone\n  next: make it\natls-ws: b\n  next: c\n"},
		{"problems", config.Problems{{File: "f", Line: 1, Field: "x", Text: "bad"}, {File: "f", Line: 2, Text: "worse"}}, 1,
			"atls-ws: f:1: x: bad\natls-ws: f:2: worse\n  next: correct this, then try it with --check\n"},
		{"two %w", fmt.Errorf("%w: %w", errors.New("a"), errors.New("b")), 1, "atls-ws: a: b\n"},
	} {
		var b bytes.Buffer
		if code := report(&b, tc.err); code != tc.code || b.String() != tc.want {
			t.Errorf("%s: exit %d\n%s", tc.name, code, b.String())
		}
	}
}

func TestExplainAlwaysHasANextStep(t *testing.T) {
	cfg := config.DefaultDevice()
	cfg.URL, cfg.Inner.CA, cfg.Inner.Cert = "https://h", "ca.pem", "d.pem"
	for want, err := range map[string]error{
		"at this path":                     &client.CarrierError{StatusCode: 404, Err: errors.New("x")},
		"removes the":                      &client.CarrierError{StatusCode: 426, Err: errors.New("x")},
		"wants a login":                    &client.CarrierError{StatusCode: 407, Err: errors.New("x")},
		"no room":                          &client.CarrierError{StatusCode: 503, Err: errors.New("x")},
		"behind it does not":               &client.CarrierError{StatusCode: 502, Err: errors.New("x")},
		"upgrade is refused":               &client.CarrierError{Op: "websocket upgrade", StatusCode: 418, Err: errors.New("x")},
		"no atls-ws server":                &client.CarrierError{StatusCode: 101, Err: errors.New("subprotocol")},
		"no connection to":                 &client.CarrierError{Err: errors.New("x")},
		"WebSocket: a box between removes": &client.CarriersError{WebSocket: &client.CarrierError{StatusCode: 426}, POST: &client.CarrierError{StatusCode: 404}},
		"neither WebSocket nor POST":       &client.CarriersError{WebSocket: &client.CarrierError{StatusCode: 404}, POST: &client.CarrierError{StatusCode: 404}},
		"proxy wants a login":              &client.CarrierError{Op: "proxy", StatusCode: 407, Err: errors.New("to CONNECT without a login")},
		"does not accept the user":         &client.CarrierError{Op: "proxy", StatusCode: 401, Err: errors.New("to CONNECT with the login of \"x\"")},
		"proxy does not reach":             &client.CarrierError{Op: "proxy", StatusCode: 503, Err: errors.New("x")},
		"proxy does not let":               &client.CarrierError{Op: "proxy", StatusCode: 403, Err: errors.New("x")},
		"is none for CONNECT":              &client.CarrierError{Op: "proxy", StatusCode: 405, Err: errors.New("x")},
		"a page answers":                   &client.CarrierError{StatusCode: 302, Err: errors.New("x")},
		"cuts the answers short":           &client.CarrierError{StatusCode: 200, Err: io.ErrUnexpectedEOF},
		"no answer from":                   &client.CarrierError{Err: context.DeadlineExceeded},
		"changes what it carries":          errors.New("inner handshake: local error: tls: bad record MAC"),
		"inside that is noticed":           &client.AlertError{Err: errors.New("remote error: tls: error decoding message")},
		"client CA":                        &client.AlertError{Err: errors.New("remote error: tls: unknown certificate authority")},
		"expired":                          &client.AlertError{Err: errors.New("remote error: tls: expired certificate")},
		"does not accept":                  &client.AlertError{Err: errors.New("remote error: tls: bad certificate")},
		"took over":                        fmt.Errorf("%w: %w", client.ErrPeerGone, client.ErrReplaced),
		"refuses the session":              &client.RefusedError{Code: client.NotAllowed, Text: "x"},
		"shuts down":                       client.ErrDraining,
		"closed by the peer":               fmt.Errorf("%w: %w", client.ErrPeerGone, &client.CarrierError{StatusCode: 404}),
		"silent":                           client.ErrDead,
	} {
		message, next := words(explain(err, cfg))
		if !strings.Contains(message, want) || next == "" {
			t.Errorf("%v: %q, next %q", err, message, next)
		}
	}
	if explain(nil, cfg) != nil {
		t.Error("nil is explained")
	}
}

func TestOuterWords(t *testing.T) {
	chain := []session.OuterCert{{Issuer: "CN=Box"}}
	for want, r := range map[string]*session.OuterReport{
		"no TLS":                      nil,
		"verified":                    {Verified: true, Chain: chain},
		"not verified: issuer CN=Box": {Chain: chain},
		"intercepted by CN=Box (1 of 2 sessions)":           {Intercepted: true, Chain: chain},
		"intercepted by CN=Box (1 of 2 sessions), verified": {Intercepted: true, Verified: true, Chain: chain},
	} {
		if got := outerWords(admin.Device{Outer: r, Counts: admin.OuterCounts{Sessions: 2, Intercepted: 1}}); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := cell("a\x1b[31m\u009b\t" + strings.Repeat("x", 200)); strings.ContainsAny(got, "\x1b\u009b\t") || len(got) != 120 {
		t.Errorf("cell %q", got)
	}
}

func TestShellQuotesForAShell(t *testing.T) {
	words := []string{"plain", "two words", "it's", "$HOME", "", `a"b\c`, "*"}
	out, err := exec.Command("sh", "-c", "for w in "+shell(words...)+"; do printf '%s\\n' \"$w\"; done").Output()
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Join(words, "\n") + "\n"; string(out) != want {
		t.Errorf("%q, want %q", out, want)
	}
}
