//go:build device

package main

import "github.com/urfave/cli/v2"

// firstSteps are for who has just got the program.
const firstSteps = "The network first:  doctor URL\n" +
	"Then:  device --config FILE"

// commands are the verbs of the full build: none here but the device's own.
func commands() []*cli.Command { return nil }
