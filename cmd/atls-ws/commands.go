//go:build !device

package main

import "github.com/urfave/cli/v2"

// commands are the verbs that a device does not need.
func commands() []*cli.Command {
	return []*cli.Command{
		demoCommand(), serverCommand(), pushCommand(), signalsCommand(), devicesCommand(), benchCommand(), dialCommand(), pkiCommand(),
		forwardCommand(), httpCommand(),
		disconnectCommand(), denyCommand(), allowCommand(), groupsCommand(), eventsCommand(),
		backupCommand(), restoreCommand(),
	}
}
