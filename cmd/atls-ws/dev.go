//go:build !device

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/pki"
)

const devDevice = "device-1"

// makeDev makes what a server and one device need and dir lacks, and names it
// in cfg where flags have not named other files.
func makeDev(dir string, cfg *config.Server) error {
	next := "remove the folder " + dir + " to have it made anew, or give another one to --dir"
	ca, err := pki.LoadCA(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if ca, err = pki.NewCA("atls-ws dev CA"); err == nil {
			err = ca.Write(dir, false)
		}
	}
	if err != nil {
		return withNext(err, next)
	}
	for name, make := range map[string]func() (*pki.Pair, error){
		pki.ServerFile:            func() (*pki.Pair, error) { return ca.Server(nil, 0) },
		pki.DeviceFile(devDevice): func() (*pki.Pair, error) { return ca.Device(devDevice, 0) },
		pki.OuterFile:             func() (*pki.Pair, error) { return pki.SelfSigned([]string{"localhost", "127.0.0.1", "::1"}, 0) },
	} {
		_, err := pki.ReadPair(dir, name)
		if errors.Is(err, fs.ErrNotExist) {
			var pair *pki.Pair
			if pair, err = make(); err == nil {
				err = pair.Write(dir, name, false)
			}
		}
		if err != nil {
			return withNext(err, next)
		}
	}
	for field, file := range map[*string]string{
		&cfg.Inner.Cert: pki.CertPath(dir, pki.ServerFile), &cfg.Inner.Key: pki.KeyPath(dir, pki.ServerFile),
		&cfg.Inner.ClientCA: pki.CertPath(dir, pki.CAFile),
		&cfg.Outer.Cert:     pki.CertPath(dir, pki.OuterFile), &cfg.Outer.Key: pki.KeyPath(dir, pki.OuterFile),
		&cfg.Data: filepath.Join(dir, "data"),
	} {
		if *field == "" {
			*field = file
		}
	}
	return nil
}

// printDev prints the commands to paste into other terminals.
func printDev(w io.Writer, dir string, cfg *config.Server, addr net.Addr, socket string) {
	exe := "atls-ws"
	if strings.ContainsRune(os.Args[0], filepath.Separator) {
		exe = os.Args[0]
	}
	host, port, _ := net.SplitHostPort(addr.String()) // a TCP listener's
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	url := "https://" + net.JoinHostPort(host, port)
	if cfg.Path != config.DefaultPath {
		url += cfg.Path
	}
	var where []string
	if socket != admin.DefaultPath() { // where the operators' verbs look
		where = []string{"--admin", socket}
	}
	push := append(append([]string{exe, "push"}, where...), devDevice, "hello", "world")
	devices := append([]string{exe, "devices"}, where...)
	device := pki.DeviceFile(devDevice)
	_, _ = fmt.Fprintf(w, "# a device, in a second terminal:\n%s\n# a signal to it, in a third:\n%s\n# and who is connected:\n%s\n",
		shell(exe, "device", "--url", url, "--cert", pki.CertPath(dir, device), "--key", pki.KeyPath(dir, device),
			"--ca", pki.CertPath(dir, pki.CAFile), "--on", `hello=echo "hello back, $(cat)"`),
		shell(push...), shell(devices...))
}
