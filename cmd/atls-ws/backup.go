//go:build !device

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/daemon/fleet"
)

func backupCommand() *cli.Command {
	return &cli.Command{
		Name: "backup", Usage: "write the signals of the running server to a file", ArgsUsage: "FILE",
		Description: "The server runs on meanwhile. Keys and the configuration are not in it.",
		Flags:       []cli.Flag{adminFlag()},
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, 1, 1); err != nil {
				return err
			}
			path := c.Args().First()
			f, err := os.CreateTemp(filepath.Dir(path), ".backup-*") // mode 0600
			if err != nil {
				return err
			}
			defer func() { _ = os.Remove(f.Name()) }() // gone after the rename
			body, err := adminClient(c).Backup(c.Context)
			if err != nil {
				return errors.Join(explainAdmin(c, err, "", ""), f.Close())
			}
			n, err := io.Copy(f, body)
			if err = errors.Join(err, body.Close(), f.Sync(), f.Close()); err == nil {
				err = fleet.CheckBackup(f.Name()) // one that was cut off has no end
			}
			if err != nil {
				return withNext(fmt.Errorf("the backup is not whole: %w", err), "look at the server's log, and try again")
			}
			if err := os.Rename(f.Name(), path); err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.App.Writer, "%s: %d bytes\n", path, n)
			return err
		},
	}
}

func restoreCommand() *cli.Command {
	return &cli.Command{
		Name: "restore", Usage: "make a server's data directory of a backup", ArgsUsage: "FILE",
		Flags: append([]cli.Flag{&cli.StringFlag{Name: "data", Usage: "`FOLDER`, empty or not there (default: " + config.DefaultData() + ")", EnvVars: []string{"ATLS_WS_DATA"}}}, logFlags()...),
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, 1, 1); err != nil {
				return err
			}
			dir := c.String("data")
			if dir == "" {
				dir = config.DefaultData()
			}
			log := config.Log{Level: c.String("log-level"), Format: c.String("log-format")}
			if err := fleet.Restore(c.Context, c.Args().First(), dir, log.Logger(c.App.ErrWriter)); err != nil {
				return err
			}
			_, err := fmt.Fprintf(c.App.Writer, "%s: restored; start the server with it\n", dir)
			return err
		},
	}
}
