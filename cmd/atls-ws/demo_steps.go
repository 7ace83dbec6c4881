//go:build !device

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/atls-ws/atls-ws/internal/child"
	"github.com/atls-ws/atls-ws/internal/middlebox"
	"github.com/atls-ws/atls-ws/internal/pki"
)

func (d *demo) makeDir() (err error) {
	if d.exe, err = os.Executable(); err != nil {
		return err
	}
	if d.dir, err = os.MkdirTemp("", "atls-ws-demo-"); err != nil {
		return err
	}
	d.ends = append(d.ends, func() { _ = os.RemoveAll(d.dir) })
	return nil
}

func (d *demo) makePKI(ctx context.Context) (err error) {
	d.say("A throw-away PKI is made: an authority, the service's certificate, the device's certificate.")
	if err := d.makeDir(); err != nil {
		return err
	}
	if _, err := d.run(ctx, nil, "pki", "init", "--dir", "pki"); err != nil {
		return err
	}
	if _, err := d.run(ctx, nil, "pki", "device", "--dir", "pki", demoDevice); err != nil {
		return err
	}
	ca, err := pki.LoadCA(d.path("pki"))
	if err != nil {
		return err
	}
	d.tell("inner authority:  %s (the device trusts this one and no other)", ca.Certificate().Subject.CommonName)
	d.tell("device:           %s", demoDevice)
	web, err := pki.NewCA("Public Web CA of the demo")
	if err != nil {
		return err
	}
	outer, err := web.Server([]string{"localhost", "127.0.0.1"}, 0)
	if err != nil {
		return err
	}
	d.tell("outer authority:  Public Web CA of the demo (for the server's ordinary HTTPS certificate)")
	return outer.Write(d.path("web"), pki.OuterFile, false)
}

// quoted and bare values of a key=value log line.
var logAddr = regexp.MustCompile(`\baddr="?([^" ]+)`)

func (d *demo) startServer(ctx context.Context) error {
	server, err := d.start("server", "server", "--listen", "127.0.0.1:0",
		"--inner-cert", pki.CertPath("pki", pki.ServerFile), "--inner-key", pki.KeyPath("pki", pki.ServerFile),
		"--client-ca", pki.CertPath("pki", pki.CAFile),
		"--outer-cert", pki.CertPath("web", pki.OuterFile), "--outer-key", pki.KeyPath("web", pki.OuterFile),
		"--admin", "admin.sock", "--data", "data")
	if err != nil {
		return err
	}
	line, err := server.Await(ctx, "listening", "addr=")
	if err != nil {
		return err
	}
	m := logAddr.FindStringSubmatch(line)
	if m == nil {
		return fmt.Errorf("no address in the server's line %q", line)
	}
	d.addr = m[1]
	d.say("The server listens on https://%s (process %d).", d.addr, server.PID())
	return nil
}

func (d *demo) startMiddlebox(context.Context) (err error) {
	if d.box, err = middlebox.Listen("127.0.0.1:0", &middlebox.Config{Name: "Customer Network Inspection CA", Record: 64 << 10}); err != nil {
		return err
	}
	d.ends = append(d.ends, func() { _ = d.box.Close() })
	d.say("A middlebox that intercepts TLS stands in the device's way: proxy %s.", d.box.URL())
	d.tell("its authority:    %s (which the device does not trust)", d.box.Authority())
	return nil
}

func (d *demo) startDevice(ctx context.Context) error {
	if err := d.servePage(); err != nil {
		return err
	}
	// The paths that the children get are relative: they run in the demo's folder,
	// whose name may be too long for a unix socket's or have spaces.
	script := "#!/bin/sh\ntext=$(cat)\necho \"signal $ATLS_SIGNAL_NAME says: $text\" >>handler.out\necho \"showing: $text\"\n"
	if err := os.WriteFile(d.path("handler.sh"), []byte(script), 0o700); err != nil {
		return err
	}
	dev, err := d.start("device", "device", "--url", "wss://"+d.addr+"/.well-known/atls",
		"--cert", pki.CertPath("pki", pki.DeviceFile(demoDevice)), "--key", pki.KeyPath("pki", pki.DeviceFile(demoDevice)),
		"--ca", pki.CertPath("pki", pki.CAFile),
		"--proxy", d.box.URL().String(), "--service", "web="+d.page, "--on", "display=sh handler.sh")
	if err != nil {
		return err
	}
	if _, err := d.connected(ctx, dev); err != nil {
		return err
	}
	d.say("The device %s starts behind the middlebox and connects (process %d).", demoDevice, dev.PID())
	d.tell("it offers the service \"web\" and runs a command for the signal \"display\"")
	return nil
}

// servePage is the device's own web page.
func (d *demo) servePage() error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &http.Server{ReadHeaderTimeout: demoStep, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "<h1>Pump 7</h1><p>pressure 4.2 bar, all well</p>\n")
	})}
	served := make(chan struct{})
	go func() { defer close(served); _ = srv.Serve(ln) }()
	d.ends = append(d.ends, func() { _ = srv.Close(); <-served })
	d.page = "http://" + ln.Addr().String()
	return nil
}

// connected polls the server until it lists the device.
func (d *demo) connected(ctx context.Context, dev *child.Child) (*demoDeviceInfo, error) {
	for {
		out, err := d.run(ctx, nil, "devices", "--json", "--admin", "admin.sock")
		if err != nil {
			return nil, err
		}
		all, err := decodeDevices(out)
		if err != nil {
			return nil, fmt.Errorf("devices --json: %w in %s", err, out)
		}
		for _, i := range all {
			if i.Device == demoDevice {
				return &i, nil
			}
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-dev.Done():
			return nil, errors.New("the device's process has ended")
		case <-ctx.Done():
			return nil, errors.New("the device has not connected in time")
		}
	}
}

func (d *demo) compareOuterAndInner(ctx context.Context) error {
	info, err := d.connected(ctx, d.children[len(d.children)-1])
	if err != nil {
		return err
	}
	if info.Outer == nil || len(info.Outer.Chain) == 0 {
		return errors.New("the device reported no outer certificate")
	}
	leaf := info.Outer.Chain[0]
	if !strings.Contains(leaf.Issuer, d.box.Authority()) || info.Outer.Verified {
		return fmt.Errorf("the outer certificate is issued by %q (verified: %v), not by the middlebox", leaf.Issuer, info.Outer.Verified)
	}
	ca, err := pki.LoadCA(d.path("pki"))
	if err != nil {
		return err
	}
	d.say("Outer and inner are two different things:")
	d.tell("outer %s:    certificate issued by %q: the MIDDLEBOX answered (%s)", info.Outer.TLSVersion, leaf.Issuer, notTrusted(info.Outer.VerifyError))
	d.tell("the server sees it too: intercepted = %v", info.Outer.Intercepted)
	d.tell("inner TLS 1.3:    certificate of %q issued by %q: the REAL service, verified by the device", pki.ServerName, ca.Certificate().Subject.CommonName)
	d.tell("                  and the service has verified the device as %q", info.Device)
	return nil
}

func notTrusted(verifyError string) string {
	if verifyError == "" {
		return "not trusted"
	}
	return verifyError
}

func (d *demo) pushSignal(ctx context.Context) error {
	const text = "filter change due on Friday"
	ack, err := d.run(ctx, strings.NewReader(text), "push", "--admin", "admin.sock", demoDevice, "display", "-")
	if err != nil {
		return err
	}
	d.say("A signal is pushed: atls-ws push %s display %q", demoDevice, text)
	got, err := os.ReadFile(d.path("handler.out"))
	if err != nil {
		return fmt.Errorf("the handler left no output: %w", err)
	}
	d.tell("handler on the device: %s", strings.TrimSpace(string(got)))
	d.tell("ack at the sender:     %s", strings.TrimSpace(string(ack)))
	if want := "showing: " + text; strings.TrimSpace(string(ack)) != want {
		return fmt.Errorf("the ack is %q, not %q", ack, want)
	}
	read := 0
	for _, e := range d.box.Exchanges() {
		read += len(e.Received)
		if bytes.Contains(e.Received, []byte(text)) {
			return errors.New("the middlebox could read the signal")
		}
	}
	d.tell("in the middlebox:      %d bytes read on their way to the device, the signal's words not among them", read)
	return nil
}

func (d *demo) fetchPage(ctx context.Context) error {
	request := "GET / HTTP/1.1\r\nHost: " + demoDevice + "\r\nConnection: close\r\n\r\n"
	out, err := d.run(ctx, strings.NewReader(request), "dial", "--admin", "admin.sock", demoDevice, "web")
	if err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(out)), nil)
	if err != nil {
		return fmt.Errorf("the device's answer: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("the device's page: %w", err)
	}
	d.say("A web page of the device is fetched through the session: atls-ws dial %s web", demoDevice)
	d.tell("%s: %s", resp.Status, strings.TrimSpace(string(body)))
	if resp.StatusCode != http.StatusOK || !strings.Contains(string(body), "Pump 7") {
		return errors.New("this is not the device's page")
	}
	return nil
}

func (d *demo) stop(context.Context) error {
	for i := len(d.ends) - 1; i >= 0; i-- {
		d.ends[i]()
	}
	d.ends = nil
	if d.ctx.Err() != nil {
		return d.ctx.Err()
	}
	d.say("Everything is stopped and the temporary files are removed. That was the whole path.")
	return nil
}

// demoDeviceInfo is what the demo reads of a device in devices --json.
type demoDeviceInfo struct {
	Device string `json:"device"`
	Outer  *struct {
		TLSVersion  string `json:"tls_version"`
		Verified    bool   `json:"verified"`
		VerifyError string `json:"verify_error"`
		Intercepted bool   `json:"intercepted"`
		Chain       []struct {
			Issuer string `json:"issuer"`
		} `json:"chain"`
	} `json:"outer"`
}

func decodeDevices(b []byte) (all []demoDeviceInfo, err error) {
	return all, json.Unmarshal(b, &all)
}
