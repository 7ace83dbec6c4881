// Package fault is a TCP proxy that treats connections badly: it delays, slows,
// stalls, cuts, resets and truncates them at any byte, flips bits, and splits
// and joins what is written. Only tests use it. What happens is a Plan, which a
// seed makes again.
package fault

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Kind is what a fault does.
type Kind int

// Kinds.
const (
	Delay    Kind = iota // For passes before the byte does
	Stall                // nothing passes for For: like Delay, but longer than ends wait for
	Rate                 // N bytes a second from here on
	Split                // from here on N bytes are written at a time
	Merge                // from here on up to N bytes are held back for at most For
	Flip                 // a bit of this byte is another
	Truncate             // N bytes from here on are left out, and then it is cut
	Cut                  // both directions end in an orderly way
	Reset                // both directions end with a reset
	kinds
)

func (k Kind) String() string {
	return [...]string{"delay", "stall", "rate", "split", "merge", "flip", "truncate", "cut", "reset"}[k]
}

// Fault happens when the byte at At of its direction is about to pass.
type Fault struct {
	At   int64
	Kind Kind
	N    int
	For  time.Duration
}

func (f Fault) String() string {
	s := fmt.Sprintf("%s@%d", f.Kind, f.At)
	if f.N > 0 {
		s += fmt.Sprintf(" n=%d", f.N)
	}
	if f.For > 0 {
		s += " for=" + f.For.String()
	}
	return s
}

// Plan is what happens to one connection, in each direction ordered by At.
type Plan struct{ Up, Down []Fault }

func (p Plan) String() string {
	text := func(all []Fault) string {
		words := make([]string, len(all))
		for i, f := range all {
			words[i] = f.String()
		}
		return strings.Join(words, ", ")
	}
	return "up[" + text(p.Up) + "] down[" + text(p.Down) + "]"
}

// Random makes a plan with a few faults within the first bytes of a connection,
// none of which stalls for longer than stall.
func Random(rng *rand.Rand, within int64, stall time.Duration) Plan {
	direction := func() []Fault {
		all := make([]Fault, rng.IntN(4))
		for i := range all {
			f := Fault{Kind: Kind(rng.IntN(int(kinds)))}
			// Early bytes are those of handshakes: they get as many faults as all others.
			if f.At = rng.Int64N(within); rng.IntN(2) == 0 {
				f.At = rng.Int64N(4096)
			}
			switch f.Kind {
			case Delay:
				f.For = time.Duration(rng.Int64N(int64(100 * time.Millisecond)))
			case Stall:
				f.For = time.Duration(rng.Int64N(int64(stall)))
			case Rate:
				f.N = 20_000 + rng.IntN(200_000)
			case Split:
				f.N = 1 + rng.IntN(100)
			case Merge:
				f.N, f.For = 1+rng.IntN(64<<10), time.Duration(1+rng.Int64N(int64(20*time.Millisecond)))
			case Truncate:
				f.N = 1 + rng.IntN(2000)
			}
			all[i] = f
		}
		slices.SortStableFunc(all, func(a, b Fault) int { return int(a.At - b.At) })
		return all
	}
	return Plan{Up: direction(), Down: direction()}
}
