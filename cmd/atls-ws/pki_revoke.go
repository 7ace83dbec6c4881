//go:build !device

package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/atls-ws/atls-ws/internal/pki"
)

func pkiRevokeCommand(dir cli.Flag) *cli.Command {
	return &cli.Command{
		Name: "revoke", Usage: "put certificates on the CA's list of revoked ones (crl.pem)", ArgsUsage: "ID|FILE...",
		Description: "ID is a device whose certificate is in the folder, FILE a certificate in PEM. Without an\n" +
			"argument the list is made, or made anew with a later date. A server that names the list under\n" +
			"inner.crl reads it within seconds, and ends the sessions of those whom it revokes.",
		Flags: []cli.Flag{dir}, Action: pkiRevoke,
	}
}

func pkiRevoke(c *cli.Context) error {
	ca, err := pkiLoad(c)
	if err != nil {
		return err
	}
	dir := c.String("dir")
	var certs []*x509.Certificate
	for _, arg := range c.Args().Slice() {
		cert, err := readCertificate(arg)
		if errors.Is(err, fs.ErrNotExist) && pki.CheckID(arg) == nil {
			cert, err = readCertificate(pki.CertPath(dir, pki.DeviceFile(arg)))
		}
		if err != nil {
			return withNext(err, "name a device whose certificate is in "+dir+", or the file of its certificate")
		}
		certs = append(certs, cert)
	}
	if err := ca.Revoke(dir, certs...); err != nil {
		return err
	}
	_, err = fmt.Fprintln(c.App.Writer, pki.CRLPath(dir))
	return err
}

func readCertificate(path string) (*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%s: is no certificate in PEM", path)
	}
	return x509.ParseCertificate(block.Bytes)
}
