package client

import (
	"crypto/x509"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

func TestBackoffBounds(t *testing.T) {
	plain := errors.New("connection refused")
	for _, tt := range []struct {
		name     string
		tries    int
		err      error
		min, max time.Duration
	}{
		{"first", 0, plain, time.Second, 2 * time.Second},
		{"fourth", 3, plain, time.Second, 9 * time.Second},
		{"late", 40, plain, time.Second, 5*time.Minute + time.Second},
		{"404", 0, fmt.Errorf("carrier: %w", &CarrierError{StatusCode: 404}), 5 * time.Minute, 15 * time.Minute},
		{"407", 0, &CarrierError{StatusCode: 407}, time.Second, 2 * time.Second},
		{"429", 0, &CarrierError{StatusCode: 429, RetryAfter: time.Minute}, time.Minute, time.Minute},
		{"503", 0, &CarrierError{StatusCode: 503, RetryAfter: 24 * time.Hour}, time.Hour, time.Hour},
		{"refused certificate", 0, &AlertError{Err: plain}, 5 * time.Minute, 15 * time.Minute},
		{"unknown authority", 0, x509.UnknownAuthorityError{}, 5 * time.Minute, 15 * time.Minute},
		{"replaced", 0, fmt.Errorf("%w: %w", ErrPeerGone, ErrReplaced), 5 * time.Minute, 15 * time.Minute},
		{"404 to a session that was up", 0, fmt.Errorf("%w: %w", ErrPeerGone, &CarrierError{StatusCode: 404}), time.Second, 2 * time.Second},
		{"busy", 0, &RefusedError{Code: Busy}, time.Second, 2 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for range 100 {
				b := backoff{tries: tt.tries}
				if d := b.next(tt.err); d < tt.min || d > tt.max {
					t.Fatalf("%s, want %s to %s", d, tt.min, tt.max)
				}
			}
		})
	}
}
