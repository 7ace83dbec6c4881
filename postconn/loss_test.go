package postconn

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// lossy is a proxy half of whose losses are of requests and half of answers. It
// also sends as many requests twice. A request takes a while, as on a network.
type lossy struct {
	*storm
	percent int
	carried atomic.Int64 // bytes of bodies, both ways, lost ones too
	posts   atomic.Int64
	bad     atomic.Int64
}

const networkDelay = 20 * time.Millisecond // of a request and its answer

func (l *lossy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	k := &kept{r.Header.Clone(), body}
	l.carried.Add(int64(len(body)))
	l.posts.Add(1)
	what := 200
	if r.Header.Get(sessionHeader) != "" {
		l.mu.Lock()
		what = l.rng.IntN(200)
		l.mu.Unlock()
	}
	select {
	case <-time.After(networkDelay):
	case <-r.Context().Done():
		return
	}
	switch {
	case what < l.percent: // lost on the way there
		l.bad.Add(1)
		panic(http.ErrAbortHandler)
	case what >= 2*l.percent && what < 4*l.percent: // arrives twice
		l.bad.Add(1)
		l.carried.Add(int64(len(body)))
		l.wg.Go(func() { _, _, _ = l.forward(r.Clone(r.Context()), k) })
	}
	resp, answer, err := l.forward(r, k)
	l.carried.Add(int64(len(answer)))
	switch {
	case err != nil:
		w.WriteHeader(http.StatusBadGateway)
		return
	case what < 2*l.percent: // lost on the way back
		l.bad.Add(1)
		panic(http.ErrAbortHandler)
	}
	for key, v := range resp.Header {
		w.Header()[key] = v
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = w.Write(answer)
}

// BenchmarkLoss moves 4 MiB one way through a proxy that loses requests and
// answers and repeats as many. docs/PROTOCOL.md quotes it: bytes carried for each
// byte that arrives, and the share of requests that something happened to.
func BenchmarkLoss(b *testing.B) {
	const size = 4 << 20
	for _, up := range []bool{true, false} {
		for _, percent := range []int{0, 1, 5, 10} {
			name := "down"
			if up {
				name = "up"
			}
			b.Run(fmt.Sprintf("%s/%d%%", name, percent), func(b *testing.B) {
				srv, _, conns := listen(b, false)
				box := &lossy{storm: &storm{to: srv.URL, rng: rand.New(rand.NewPCG(7, uint64(percent)))}, percent: percent}
				proxy := httptest.NewServer(box)
				defer proxy.Close()
				b.SetBytes(size)
				for b.Loop() {
					c, s := dial(b, proxy.URL, dialOptions(proxy), conns)
					from, to := s, c
					if up {
						from, to = c, s
					}
					failed := make(chan error, 1)
					go func() {
						_, err := from.Write(make([]byte, size))
						failed <- err
					}()
					if n, err := io.ReadFull(to, make([]byte, size)); err != nil {
						b.Fatal(n, err)
					}
					if err := <-failed; err != nil {
						b.Fatal(err)
					}
					_ = s.Close()
					_ = c.Close()
				}
				box.wg.Wait()
				b.ReportMetric(float64(box.carried.Load())/float64(size)/float64(b.N), "carried/byte")
				b.ReportMetric(100*float64(box.bad.Load())/float64(box.posts.Load()), "%bad")
				b.ReportMetric(float64(box.posts.Load())/float64(b.N), "requests/op")
			})
		}
	}
}
