package main

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/atls-ws/atls-ws/client"
)

func voucherFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "voucher", Usage: "`FILE` with a voucher of the device's maker (RFC 8366, JSON in CMS, DER): its pinned certificate becomes --ca"},
		&cli.StringFlag{Name: "masa", Usage: "`FILE` with the authorities of the maker's signing service, for --voucher"},
		&cli.StringFlag{Name: "serial-number", Usage: "`NUMBER` of this device, for --voucher (default: that of --factory-cert)"},
		&cli.StringFlag{Name: "factory-cert", Usage: "`FILE` with the certificate that the device was made with, for --voucher"},
		&cli.StringFlag{Name: "nonce", Usage: "`BASE64` nonce of the request that the voucher answers (default: there was none)"},
	}
}

const maxVoucher = 64 << 10

// runVoucher pins what a voucher says.
func runVoucher(c *cli.Context) error {
	cfg, err := readDevice(c)
	if cfg == nil {
		return err
	}
	o := &client.VoucherOptions{Serial: c.String("serial-number"), File: cfg.Inner.CA}
	factory := cfg.Enroll.FactoryCert
	switch {
	case o.File == "":
		return usagef(c, "--ca: missing: name the file to write")
	case c.String("masa") == "":
		return usagef(c, "--masa: missing: name the file with the authorities of the device's maker")
	case o.Serial == "" && factory == "":
		return usagef(c, "--serial-number: missing, and there is no --factory-cert that has one")
	}
	if o.MASA, err = readPool(c.String("masa")); err != nil {
		return err
	}
	if factory != "" {
		certs, err := readCerts(factory)
		if err != nil {
			return err
		}
		o.Factory = certs[0]
	}
	if text := c.String("nonce"); text != "" {
		if o.Nonce, err = base64.StdEncoding.DecodeString(text); err != nil {
			return usagef(c, "--nonce: want base64")
		}
	}
	der, err := readSmall(c.String("voucher"))
	if err != nil {
		return err
	}
	v, err := client.Pin(der, o)
	if err != nil {
		return explainVoucher(err)
	}
	if c.Bool("json") {
		return json.NewEncoder(c.App.Writer).Encode(v)
	}
	what := "unchanged, as it was pinned before"
	if v.Changed {
		what = "written"
	}
	_, err = fmt.Fprintf(c.App.Writer, "voucher: %s for %s, of %s, signed by %s\n%s: %s\n  %s, until %s, sha256 %s\n",
		v.Assertion, v.Serial, v.Created.UTC().Format(time.DateOnly), v.Signer, what, v.File, v.Pinned.Subject, v.Pinned.NotAfter.UTC().Format(time.DateOnly), v.Pinned.SHA256)
	return err
}

func explainVoucher(err error) error {
	switch {
	case errors.Is(err, client.ErrVoucherOther):
		return withNext(err, "get the voucher of this device from its maker; nothing was written")
	case errors.Is(err, client.ErrVoucherNonce):
		return withNext(err, "give the nonce of the request with --nonce, or ask the maker for a new voucher; nothing was written")
	case errors.Is(err, client.ErrVoucherTime):
		return withNext(err, "check this device's clock; then ask the maker for a new voucher; nothing was written")
	case errors.Is(err, client.ErrVoucher):
		return withNext(err, "trust nobody by it: ask the device's maker for a voucher, and compare --masa; nothing was written")
	case errors.Is(err, client.ErrPinned):
		return withNext(err, "if the device has another owner now, remove that file first")
	case errors.Is(err, client.ErrNotBundle):
		return withNext(err, "name another file with --ca, or remove that one")
	}
	return err
}

func readSmall(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err == nil && info.Size() > maxVoucher {
		return nil, fmt.Errorf("%s: over %d bytes", file, maxVoucher)
	}
	if err != nil {
		return nil, withNext(err, "name a file that is there")
	}
	return os.ReadFile(file)
}

func readCerts(file string) (certs []*x509.Certificate, err error) {
	data, err := readSmall(file)
	if err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, withNext(fmt.Errorf("%s: has no PEM block \"CERTIFICATE\"", file), "name a file with certificates in PEM")
	}
	return certs, nil
}

func readPool(file string) (*x509.CertPool, error) {
	certs, err := readCerts(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for _, c := range certs {
		pool.AddCert(c)
	}
	return pool, nil
}
