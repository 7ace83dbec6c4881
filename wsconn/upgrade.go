package wsconn

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

	// upgradeRequired is the problem type of our 426 answer: a client that gets
	// it has reached the service, and something between removed the upgrade.
	upgradeRequired = "urn:atls-ws:upgrade-required"
)

// UpgradeError says what HTTP answered instead of a WebSocket. StatusCode is 0
// when there was no answer at all.
type UpgradeError struct {
	StatusCode int
	RetryAfter time.Duration // what the answer asked for, at most a day; 0 when nothing
	Body       string        // its beginning, at most 1 KiB, printable, on one line
	Err        error         // what it means, or what happened below HTTP
}

// Error is the status, what it means, and the beginning of the body.
func (e *UpgradeError) Error() string {
	var b strings.Builder
	b.WriteString("websocket upgrade: ")
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
	if e.Body != "" {
		fmt.Fprintf(&b, ": %q", e.Body)
	}
	return b.String()
}

// Unwrap returns Err.
func (e *UpgradeError) Unwrap() error { return e.Err }

// refusal makes the error of an answer that is no 101. It reads the beginning
// of the body, for a second at most, and closes it.
func refusal(resp *http.Response) *UpgradeError {
	e := &UpgradeError{
		StatusCode: resp.StatusCode,
		RetryAfter: retryAfter(resp.Header.Get("Retry-After"), time.Now()),
	}
	bound := time.AfterFunc(time.Second, func() { _ = resp.Body.Close() })
	body, _ := io.ReadAll(io.LimitReader(resp.Body, bodyExcerpt)) // what there is
	bound.Stop()
	_ = resp.Body.Close()
	e.Body = printable(string(body))
	e.Err = meaning(resp, e.Body)
	return e
}

// meaning is the likely reason of an answer, nil when its status says it all.
func meaning(resp *http.Response, body string) error {
	switch s := resp.StatusCode; {
	case s == http.StatusUpgradeRequired && strings.Contains(body, upgradeRequired):
		return errors.New("the service was reached, but something on the way removed the upgrade")
	case s >= 300 && s < 400:
		return fmt.Errorf("redirected to %q, which is not followed", printable(resp.Header.Get("Location")))
	case s >= 200 && s < 300:
		return errors.New("a page instead of the service: a portal, or a wrong path")
	case s == http.StatusNotFound:
		return errors.New("nothing serves this path")
	case s == http.StatusBadGateway || s == http.StatusGatewayTimeout:
		return errors.New("a proxy does not reach the service")
	}
	return nil
}

// retryAfter reads seconds or an HTTP date (RFC 9110 section 10.2.3).
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

// printable makes one line of at most bodyExcerpt bytes of what a stranger sent.
func printable(s string) string {
	s = s[:min(len(s), bodyExcerpt)]
	return strings.Join(strings.FieldsFunc(strings.ToValidUTF8(s, " "), func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r)
	}), " ")
}
