// Package leak fails a test binary that leaves goroutines behind. Only tests
// import it.
package leak

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// Main runs the tests and exits: with 1 when goroutines are still running five
// seconds after the last test.
//
//	func TestMain(m *testing.M) { leak.Main(m) }
//
// After the tests it calls cleanup.
func Main(m *testing.M, cleanup ...func()) {
	code := m.Run()
	for _, fn := range cleanup {
		fn()
	}
	if code == 0 {
		if left := wait(5 * time.Second); len(left) > 0 {
			fmt.Fprintf(os.Stderr, "%d goroutines left behind:\n\n%s\n", len(left), strings.Join(left, "\n\n"))
			code = 1
		}
	}
	os.Exit(code)
}

func wait(bound time.Duration) (left []string) {
	for end := time.Now().Add(bound); ; time.Sleep(10 * time.Millisecond) {
		if left = running(); len(left) == 0 || time.Now().After(end) {
			return left
		}
	}
}

// running returns the stacks of all goroutines but this one and those that the
// runtime, the testing package and os/signal keep.
func running() (stacks []string) {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	for i, g := range strings.Split(string(buf), "\n\n") {
		known := i == 0
		for _, s := range []string{"testing.(*M)", "testing.runFuzzing", "os/signal.", "runtime.ensureSigM", "internal/fuzz."} {
			known = known || strings.Contains(g, s)
		}
		if !known {
			stacks = append(stacks, g)
		}
	}
	return stacks
}
