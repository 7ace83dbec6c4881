//go:build !device

package main

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/pki"
)

const maxTokenTime = 365 * 24 * time.Hour

// pkiTokenCommand makes what a device enrolls with once.
func pkiTokenCommand(dir cli.Flag) *cli.Command {
	return &cli.Command{
		Name: "token", Usage: "make a one-time token with which the device ID enrolls", ArgsUsage: "ID",
		Description: "The token goes to standard output, once; its sum goes to the file that the server's\n" +
			"configuration names in enroll.tokens. It is used up by the first key that the device asks for.",
		Flags: []cli.Flag{
			dir,
			&cli.StringFlag{Name: "tokens", Usage: "`FILE` of the sums (default: tokens in the folder of the PKI)"},
			&cli.DurationFlag{Name: "valid", Value: 72 * time.Hour, Usage: "`TIME` in which it can be used"},
		},
		Action: pkiToken,
	}
}

func pkiToken(c *cli.Context) error {
	if c.NArg() != 1 {
		return cli.Exit("usage: atls-ws pki token [options] ID\noptions come before arguments", 2)
	}
	id, valid := c.Args().First(), c.Duration("valid")
	if err := pki.CheckID(id); err != nil {
		return cli.Exit(err, 2)
	}
	if valid < time.Minute || valid > maxTokenTime {
		return cli.Exit(fmt.Sprintf("--valid %s: want 1m to %s", valid, maxTokenTime), 2)
	}
	file := c.String("tokens")
	if file == "" {
		file = filepath.Join(c.String("dir"), "tokens")
	}
	token := rand.Text()
	line := config.EnrollToken{Device: id, Sum: sha256.Sum256([]byte(token)), Expires: time.Now().Add(valid)}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return withNext(err, "name a file in a folder that is there with --tokens")
	}
	_, err = fmt.Fprintln(f, line)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	_, err = fmt.Fprintln(c.App.Writer, token)
	_, _ = fmt.Fprintf(c.App.ErrWriter, "Next, on the device, with the token in a file:  atls-ws device --enroll --enroll-id %s --enroll-token FILE ...\n", id)
	return err
}
