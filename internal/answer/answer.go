// Package answer tells what HTTP answered when it was not what a carrier wants:
// the one error type of both carriers.
package answer

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
)

const (
	bodyExcerpt   = 1 << 10
	maxRetryAfter = 24 * time.Hour

	// UpgradeRequired is the problem type of our 426 answer: a client that gets
	// it has reached the service, and something between removed the upgrade.
	UpgradeRequired = "urn:atls-ws:upgrade-required"
)

// Error says what HTTP answered to a carrier's request. StatusCode is 0 when
// there was no answer at all.
type Error struct {
	Op         string // what was asked for: "websocket upgrade" or "post"
	StatusCode int
	RetryAfter time.Duration // what the answer asked for, at most a day; 0 when nothing
	Body       string        // its beginning, at most 1 KiB, printable, on one line
	Err        error         // what it means, or what happened below HTTP
}

// Error is the status, what it means, and the beginning of the body.
func (e *Error) Error() string {
	var b strings.Builder
	if e.Op != "" {
		b.WriteString(e.Op + ": ")
	}
	if e.StatusCode != 0 && e.StatusCode != http.StatusSwitchingProtocols {
		fmt.Fprintf(&b, "answered %d %s", e.StatusCode, http.StatusText(e.StatusCode))
		if e.RetryAfter > 0 {
			fmt.Fprintf(&b, ", retry after %s", e.RetryAfter)
		}
		if e.Err != nil {
			b.WriteString(": ")
		}
	}
	if e.Err != nil {
		b.WriteString(e.Err.Error())
	}
	if e.Body != "" && !strings.Contains(e.Body, UpgradeRequired) { // Err says it better
		fmt.Fprintf(&b, ": %q", e.Body)
	}
	return b.String()
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Read makes the error of an answer that is not what op wants. It reads the
// beginning of the body, for a second at most, and closes it.
func Read(op string, resp *http.Response) *Error {
	e := &Error{Op: op, StatusCode: resp.StatusCode, RetryAfter: RetryAfter(resp.Header)}
	bound := time.AfterFunc(time.Second, func() { _ = resp.Body.Close() })
	body, _ := io.ReadAll(io.LimitReader(resp.Body, bodyExcerpt)) // what there is
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // to its end: the connection can then be used again
	bound.Stop()
	_ = resp.Body.Close()
	e.Body = Printable(string(body))
	e.Err = meaning(resp, e.Body)
	return e
}

// meaning is the likely reason of an answer, nil when its status says it all.
func meaning(resp *http.Response, body string) error {
	switch s := resp.StatusCode; {
	case s == http.StatusUpgradeRequired && strings.Contains(body, UpgradeRequired):
		return errors.New("the service was reached, but something on the way removed the upgrade")
	case s >= 300 && s < 400:
		return fmt.Errorf("redirected to %q, which is not followed", Printable(resp.Header.Get("Location")))
	case s >= 200 && s < 300:
		return errors.New("a page instead of the service: a portal, or a wrong path")
	case s == http.StatusNetworkAuthenticationRequired:
		return errors.New("a portal wants a login before it lets anything through")
	case s == http.StatusNotFound:
		return errors.New("nothing serves this path")
	case s == http.StatusBadGateway || s == http.StatusGatewayTimeout:
		return errors.New("a proxy does not reach the service")
	}
	return nil
}

// RetryAfter is what an answer asks for in its Retry-After: seconds or an HTTP
// date (RFC 9110 section 10.2.3), at most a day; 0 when nothing.
func RetryAfter(h http.Header) time.Duration { return retryAfter(h.Get("Retry-After"), time.Now()) }

func retryAfter(v string, now time.Time) time.Duration {
	v = strings.TrimSpace(v)
	if s, err := strconv.ParseUint(v, 10, 32); err == nil {
		return min(time.Duration(s)*time.Second, maxRetryAfter)
	}
	if t, err := http.ParseTime(v); err == nil {
		return min(max(t.Sub(now), 0), maxRetryAfter)
	}
	return 0
}

// Printable makes one line of at most bodyExcerpt bytes of what a stranger sent.
func Printable(s string) string {
	s = s[:min(len(s), bodyExcerpt)]
	return strings.Join(strings.FieldsFunc(strings.ToValidUTF8(s, " "), func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r)
	}), " ")
}
