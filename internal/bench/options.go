//go:build unix

package main

import (
	"os"
	"runtime/pprof"
	"slices"
	"strings"
	"syscall"
	"time"
)

// minutePlus is longer than what a session keeps after its last use: signal
// streams live for a minute without signals.
const minutePlus = 100 * time.Second

type options struct {
	out     string
	rounds  int
	mib     int
	devices int
	pause   time.Duration
	only    string
	cases   string
	profile string
	heap    string
	args    []string
	command string
}

// wants says whether a stack or a case is to be measured.
func (o *options) wants(name string) bool {
	return o.only == "" || slices.Contains(strings.Split(o.only, ","), name)
}

func (o *options) startProfile() (stop func(), err error) {
	if o.profile == "" {
		return func() {}, nil
	}
	f, err := os.Create(o.profile)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, err
	}
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close()
	}, nil
}

// raiseFileLimit lets the process have as many connections as the system allows.
func raiseFileLimit() {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) == nil {
		l.Cur = l.Max
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l)
	}
}

// cpuSeconds is what this process has used so far.
func cpuSeconds() float64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
