package fault

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

// through sends data through a proxy with a plan and returns what arrives.
func through(t *testing.T, plan Plan, data []byte) (got []byte, err error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	p, err := Listen(l.Addr().String(), func(int) Plan { return plan })
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		c, err := net.Dial("tcp", p.Addr())
		if err != nil {
			return
		}
		_, _ = c.Write(data)
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
	})
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	got, err = io.ReadAll(c)
	_ = c.Close()
	wg.Wait()
	return got, err
}

func TestEachKindDoesWhatItSays(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 1000)
	flipped := bytes.Clone(data)
	flipped[4321] ^= 1 << (4321 % 8)
	for _, tc := range []struct {
		fault  Fault
		want   []byte
		reset  bool
		atMost bool // want is the longest that can arrive
	}{
		{fault: Fault{Kind: Delay, At: 10, For: time.Millisecond}, want: data},
		{fault: Fault{Kind: Stall, At: 0, For: 20 * time.Millisecond}, want: data},
		{fault: Fault{Kind: Rate, At: 0, N: 1 << 20}, want: data},
		{fault: Fault{Kind: Split, At: 5, N: 7}, want: data},
		{fault: Fault{Kind: Merge, At: 5, N: 3000, For: time.Millisecond}, want: data},
		{fault: Fault{Kind: Flip, At: 4321}, want: flipped},
		{fault: Fault{Kind: Cut, At: 4321}, want: data[:4321]},
		{fault: Fault{Kind: Reset, At: 4321}, want: data[:4321], reset: true, atMost: true},
	} {
		got, err := through(t, Plan{Up: []Fault{tc.fault}}, bytes.Clone(data))
		if (err != nil) != tc.reset || tc.atMost && !bytes.HasPrefix(tc.want, got) || !tc.atMost && !bytes.Equal(got, tc.want) {
			t.Errorf("%s: %d bytes of %d, %v", tc.fault, len(got), len(tc.want), err)
		}
	}
	got, _ := through(t, Plan{Up: []Fault{{Kind: Truncate, At: 100, N: 50}}}, bytes.Clone(data))
	if len(got) < 100 || !bytes.Equal(got[:100], data[:100]) || len(got) > 100 && !bytes.HasPrefix(data[150:], got[100:]) {
		t.Errorf("truncate: %d bytes", len(got))
	}
}

func TestASeedMakesTheSamePlan(t *testing.T) {
	plan := func(seed uint64) string {
		return Random(rand.New(rand.NewPCG(seed, 0)), 1<<20, time.Second).String()
	}
	differ := false
	for seed := range uint64(20) {
		if first, again := plan(seed), plan(seed); first != again {
			t.Errorf("seed %d makes two plans", seed)
		}
		differ = differ || plan(seed) != plan(seed+1)
	}
	if !differ {
		t.Error("all seeds make the same plan")
	}
}

func TestNothingPassesWhatIsFrozen(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	p, err := Listen("", func(int) Plan { return Plan{} })
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	p.To(l.Addr().String())
	p.Freeze(true)
	near, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = near.Close() }()
	_, _ = near.Write([]byte("x"))
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = far.Close() }()
	_ = far.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := far.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes came", n)
	}
	p.Freeze(false)
	_ = far.SetReadDeadline(time.Time{})
	if n, err := far.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}
