//go:build unix

// Command bench measures atls-ws beside what it is made of and what it
// replaces, in the same run and in alternating rounds, because only the ratios
// of one run mean anything on a machine with other work. Nothing leaves the
// loopback interface.
//
//	go run ./internal/bench streams -o docs/bench   # CPU, throughput and latency of both ends
//	go run ./internal/bench fleet -o docs/bench     # a server process with thousands of devices
//	go run ./internal/bench wan -o docs/bench       # one stream over a long path
//	go run ./internal/bench forward -o docs/bench bin/atls-ws
//	go run ./internal/bench storm -o docs/bench     # thousands of devices that come back at once
//
// Each writes a Markdown report, and a picture where one helps.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("say what to measure: streams, wan, forward, fleet or storm")
	}
	raiseFileLimit()
	o := &options{}
	fs := flag.NewFlagSet(args[0], flag.ContinueOnError)
	fs.StringVar(&o.out, "o", "", "folder for the report; empty: standard output")
	fs.IntVar(&o.rounds, "rounds", 5, "alternating rounds; the median of them counts")
	fs.IntVar(&o.mib, "mib", 256, "MiB of a bulk transfer")
	fs.IntVar(&o.devices, "devices", 4000, "devices of a fleet")
	fs.DurationVar(&o.pause, "pause", minutePlus, "idle time before memory is read")
	fs.StringVar(&o.only, "only", "", "names of stacks or cases, comma-separated; empty: all")
	fs.StringVar(&o.cases, "cases", "", "only those whose name has this in it")
	fs.StringVar(&o.heap, "heap", "", "write heap profiles of the fleet's server, all allocations, to files that begin so")
	fs.StringVar(&o.profile, "cpuprofile", "", "write a CPU profile of the run; of a fleet, the server's; of forward, each server's, to files that begin so")
	what, ok := map[string]func(*options) error{
		"streams": streams, "fleet": fleet, "wan": wan, "storm": storm, "forward": forward, "serve": serveFleet, "relay": serveRelay,
	}[args[0]]
	if !ok {
		return fmt.Errorf("cannot measure %q", args[0])
	}
	if err := fs.Parse(args[1:]); err != nil {
		return err
	}
	o.args = fs.Args()
	o.command = "go run ./internal/bench " + strings.Join(args, " ")
	stop, err := func() {}, error(nil)
	if args[0] != "fleet" && args[0] != "forward" { // whose servers are other processes
		stop, err = o.startProfile()
	}
	if err != nil {
		return err
	}
	defer stop()
	return what(o)
}
