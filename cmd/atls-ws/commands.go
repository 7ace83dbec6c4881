//go:build !device

package main

import "github.com/urfave/cli/v2"

// firstSteps are for who has just got the program.
const firstSteps = "The quickest look:  atls-ws demo\n" +
	"By hand:  atls-ws server --dev   and paste the commands that it prints."

// commands are the verbs that a device does not need.
func commands() []*cli.Command {
	return []*cli.Command{
		demoCommand(), serverCommand(), pushCommand(), signalsCommand(), devicesCommand(), benchCommand(), dialCommand(), pkiCommand(),
		forwardCommand(), httpCommand(),
		disconnectCommand(), denyCommand(), allowCommand(), groupsCommand(), eventsCommand(),
		backupCommand(), restoreCommand(),
	}
}
