//go:build !device

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/atls-ws/atls-ws/internal/pki"
)

// pkiCommand makes the certificates of a deployment.
func pkiCommand() *cli.Command {
	dir := &cli.StringFlag{Name: "dir", Value: "pki", Usage: "folder of the `PKI`", EnvVars: []string{"ATLS_WS_PKI"}}
	names := &cli.StringSliceFlag{Name: "name", Usage: "a further DNS `NAME` or IP address of the server, beside " + pki.ServerName}
	days := &cli.IntFlag{Name: "days", Value: int(pki.LeafValidity / (24 * time.Hour)), Usage: "validity of the certificate"}
	force := &cli.BoolFlag{Name: "force", Usage: "replace what exists"}
	return &cli.Command{
		Name:  "pki",
		Usage: "make the CA, the server's inner certificate, and devices' certificates",
		Description: "Keys are ECDSA P-256 and readable by their owner only. Nothing that exists is\n" +
			"replaced without --force. Paths of what was made go to standard output.",
		Subcommands: []*cli.Command{{
			Name: "init", Usage: "make a CA and the server's inner certificate",
			Flags: []cli.Flag{dir, names, days, force}, Action: pkiInit,
		}, {
			Name: "server", Usage: "make another inner certificate for the server",
			Flags: []cli.Flag{dir, names, days, force}, Action: pkiServer,
		}, {
			Name: "device", Usage: "make the certificate of the device ID", ArgsUsage: "ID",
			Flags: []cli.Flag{dir, days, force}, Action: pkiDevice,
		}, {
			Name: "node", Usage: "make the certificate of the node NAME of a cluster of servers", ArgsUsage: "NAME",
			Flags: []cli.Flag{dir, days, force}, Action: pkiNode,
		}, pkiTokenCommand(dir), pkiRevokeCommand(dir)},
	}
}

func pkiInit(c *cli.Context) error {
	validity, err := pkiValidity(c, 0)
	if err != nil {
		return err
	}
	dir, force := c.String("dir"), c.Bool("force")
	if !force { // all or nothing: a CA beside another CA's server pair is of no use
		for _, name := range []string{pki.CAFile, pki.ServerFile} {
			for _, path := range []string{pki.CertPath(dir, name), pki.KeyPath(dir, name)} {
				if _, err := os.Lstat(path); err == nil {
					return pkiExists(fmt.Errorf("%s: %w", path, fs.ErrExist))
				}
			}
		}
	}
	ca, err := pki.NewCA("atls-ws CA")
	if err != nil {
		return err
	}
	if err := ca.Write(dir, force); err != nil {
		return pkiExists(err)
	}
	pkiPrint(c, dir, pki.CAFile)
	if err := pkiWriteServer(c, ca, validity); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(c.App.ErrWriter, "Next, a device's certificate:  atls-ws pki device --dir %s ID\n", dir)
	return nil
}

func pkiServer(c *cli.Context) error {
	validity, err := pkiValidity(c, 0)
	if err != nil {
		return err
	}
	ca, err := pkiLoad(c)
	if err != nil {
		return err
	}
	return pkiWriteServer(c, ca, validity)
}

func pkiWriteServer(c *cli.Context, ca *pki.CA, validity time.Duration) error {
	names := append([]string{pki.ServerName}, c.StringSlice("name")...)
	pair, err := ca.Server(slices.Compact(names), validity)
	if err != nil {
		return err
	}
	return pkiWrite(c, pair, pki.ServerFile)
}

func pkiDevice(c *cli.Context) error {
	validity, err := pkiValidity(c, 1)
	if err != nil {
		return err
	}
	id := c.Args().First()
	if err := pki.CheckID(id); err != nil {
		return cli.Exit(err, 2)
	}
	ca, err := pkiLoad(c)
	if err != nil {
		return err
	}
	pair, err := ca.Device(id, validity)
	if err != nil {
		return err
	}
	return pkiWrite(c, pair, pki.DeviceFile(id))
}

func pkiNode(c *cli.Context) error {
	validity, err := pkiValidity(c, 1)
	if err != nil {
		return err
	}
	ca, err := pkiLoad(c)
	if err != nil {
		return err
	}
	name := c.Args().First()
	pair, err := ca.Node(name, validity)
	if err != nil {
		return err
	}
	return pkiWrite(c, pair, pki.NodeFile(name))
}

// pkiValidity checks the number of arguments and returns what --days says.
func pkiValidity(c *cli.Context, args int) (time.Duration, error) {
	const maxDays = 100 * 365
	switch days := c.Int("days"); {
	case c.NArg() != args:
		return 0, cli.Exit(fmt.Sprintf("usage: atls-ws pki %s [options] %s\noptions come before arguments",
			c.Command.Name, c.Command.ArgsUsage), 2)
	case days < 1 || days > maxDays:
		return 0, cli.Exit(fmt.Sprintf("--days %d: want 1 to %d", days, maxDays), 2)
	default:
		return time.Duration(days) * 24 * time.Hour, nil
	}
}

func pkiLoad(c *cli.Context) (*pki.CA, error) {
	dir := c.String("dir")
	ca, err := pki.LoadCA(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, withNext(fmt.Errorf("no CA in %s: %w", dir, err),
			"make one with: atls-ws pki init --dir "+dir+"  (or name its folder with --dir)")
	}
	return ca, err
}

func pkiWrite(c *cli.Context, pair *pki.Pair, name string) error {
	dir := c.String("dir")
	if err := pair.Write(dir, name, c.Bool("force")); err != nil {
		return pkiExists(err)
	}
	pkiPrint(c, dir, name)
	return nil
}

func pkiPrint(c *cli.Context, dir, name string) {
	_, _ = fmt.Fprintf(c.App.Writer, "%s\n%s\n", pki.CertPath(dir, name), pki.KeyPath(dir, name))
}

// pkiExists adds the next step when err says that a file is in the way.
func pkiExists(err error) error {
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	return withNext(err, "replace it with --force, or write elsewhere with --dir")
}
