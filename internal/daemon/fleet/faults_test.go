package fleet

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/fault"
	"github.com/atls-ws/atls-ws/internal/pki"
)

const (
	natsFaults  = 6 // connections to NATS that are treated badly; what comes after them is not
	natsSignals = 40
	natsDevices = 3
)

// The way to a NATS elsewhere breaks at any byte: no signal that was taken is
// lost, doubled or out of order, and one that was not taken is taken when it is
// sent again. ATLS_FAULT_SEED=S tries a seed again.
func TestFaultsOnTheWayToNATS(t *testing.T) {
	t.Parallel()
	seed := mrand.Uint64N(1 << 32)
	if s, err := strconv.ParseUint(os.Getenv("ATLS_FAULT_SEED"), 10, 64); err == nil {
		seed = s
	}
	s := newSite(t, false)
	nd := startTLSNATS(t, s.ca)
	var mu sync.Mutex
	var plans []string
	rng := mrand.New(mrand.NewPCG(seed, 3))
	clean := make(chan struct{})
	proxy := must[*fault.Proxy](t)(fault.Listen(strings.TrimPrefix(nd.url, "tls://"), func(n int) fault.Plan {
		mu.Lock()
		defer mu.Unlock()
		if n == 0 || n > natsFaults { // the first is that of Open, which gives up at once
			if n == natsFaults+1 {
				close(clean)
			}
			return fault.Plan{Down: cutLater(n)}
		}
		plan := fault.Random(rng, 64<<10, 2*time.Second)
		plans = append(plans, plan.String())
		if !slices.ContainsFunc(slices.Concat(plan.Up, plan.Down), ends) {
			plan.Up = append(plan.Up, fault.Fault{At: 64 << 10, Kind: fault.Cut}) // on to the next
		}
		return plan
	}))
	defer proxy.Close()
	s.cfg.NATS.URL, s.cfg.NATS.CA = "tls://"+proxy.Addr(), nd.ca
	s.cfg.Dir = ""
	s.start()
	defer func() {
		if t.Failed() {
			mu.Lock()
			defer mu.Unlock()
			t.Logf("again with ATLS_FAULT_SEED=%d; what happened to the connections:\n%s", seed, strings.Join(plans, "\n"))
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for i := range natsDevices {
		d := s.device(fmt.Sprintf("d-%d", i))
		s.connect(d)
		wg.Go(func() {
			var want []string
			for n := 0; n < natsSignals || ctx.Err() == nil && !isClosed(clean); n++ {
				want = append(want, fmt.Sprint(n))
				if err := s.sendUntilTaken(ctx, d.id, fmt.Sprint(n)); err != nil {
					t.Errorf("%s: signal %d: %v", d.id, n, err)
					return
				}
			}
			for len(d.seen()) < len(want) && ctx.Err() == nil {
				time.Sleep(5 * time.Millisecond)
			}
			got := d.seen()
			for i := range got {
				got[i] = strings.TrimSpace(got[i])
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s handled %d signals, want %d: %v", d.id, len(got), len(want), got)
			}
		})
	}
	wg.Wait()
}

// sendUntilTaken sends a signal again, with its id, for as long as the store
// cannot say that it has it.
func (s *site) sendUntilTaken(ctx context.Context, device, data string) error {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	body := []byte(data + strings.Repeat(" ", mrand.IntN(2000)))
	for {
		var said []admin.Outcome
		_, err := s.f.Send(ctx, &Request{Target: Target{Device: device}, ID: &id, Name: "do", Data: body}, func(o admin.Outcome) { said = append(said, o) })
		if err == nil && len(said) == 1 && said[0].State != admin.Failed {
			return nil
		}
		var un *UnavailableError
		if ctx.Err() != nil || err != nil && !errors.As(err, &un) {
			return fmt.Errorf("%v: %w", said, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// cutLater ends the first connection, so that the faults begin.
func cutLater(n int) []fault.Fault {
	if n > 0 {
		return nil
	}
	return []fault.Fault{{At: 40 << 10, Kind: fault.Cut}}
}

// ends says whether a fault ends the connection, soon or later.
func ends(f fault.Fault) bool {
	return f.Kind == fault.Cut || f.Kind == fault.Reset || f.Kind == fault.Truncate || f.Kind == fault.Flip
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// startTLSNATS is startNATS with a certificate of ca, and ca's in the file nd.ca.
func startTLSNATS(t testing.TB, ca *pki.CA) *natsd {
	t.Helper()
	dir := t.TempDir()
	pair := must[*pki.Pair](t)(ca.Server([]string{"127.0.0.1"}, 0))
	if err := errors.Join(ca.Write(dir, false), pair.Write(dir, pki.ServerFile, false)); err != nil {
		t.Fatal(err)
	}
	n := (&natsd{t: t, dir: dir, ca: pki.CertPath(dir, pki.CAFile), tls: fmt.Sprintf("tls { cert_file: %q, key_file: %q }\n", pki.CertPath(dir, pki.ServerFile), pki.KeyPath(dir, pki.ServerFile))}).anywhere()
	n.url = strings.Replace(n.url, "nats://", "tls://", 1)
	return n
}
