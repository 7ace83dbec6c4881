//go:build device

package main

import "github.com/urfave/cli/v2"

// commands are the verbs of the full build: none here but the device's own.
func commands() []*cli.Command { return nil }
