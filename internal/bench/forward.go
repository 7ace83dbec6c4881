//go:build unix

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// forward measures the binaries: a local port of the device leads to a service
// of the server, over wss. Its argument is the path of atls-ws.
func forward(o *options) error {
	if len(o.args) != 1 {
		return errors.New("say where the binary is: forward bin/atls-ws")
	}
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	targets, err := startTargets()
	if err != nil {
		return err
	}
	bin, err := filepath.Abs(o.args[0])
	if err != nil {
		return err
	}
	f := &forwarded{bin: bin, dir: filepath.Join(dir, "all"), out: map[string]string{}}
	one := &forwarded{bin: bin, dir: filepath.Join(dir, "one"), env: "GOMAXPROCS=1", out: map[string]string{}}
	for _, f := range []*forwarded{f, one} {
		defer f.stop()
		if err := errors.Join(os.Mkdir(f.dir, 0o700), f.start(targets)); err != nil {
			return err
		}
		if o.profile != "" {
			if err := f.profile(o, o.profile+"-"+filepath.Base(f.dir)); err != nil {
				return err
			}
		}
	}
	plain := &relays{}
	defer plain.stop()
	relayed, err := plain.start(targets)
	if err != nil {
		return err
	}
	r := newReport(o)
	ways := []struct {
		name string
		to   map[string]string
		pids []int
	}{{"two plain relays", relayed, plain.pids()}, {"forward", f.out, f.pids()}, {"forward, GOMAXPROCS=1", one.out, one.pids()}}
	for range o.rounds {
		for _, w := range ways {
			if !o.wants(w.name) {
				continue
			}
			for _, c := range []string{"up", "down"} {
				if err := forwardBulk(r.row("bulk "+c), w.name, w.to[map[string]string{"up": "sink", "down": "source"}[c]], c == "up", o.mib<<20, w.pids); err != nil {
					return fmt.Errorf("%s: %w", w.name, err)
				}
			}
			conn, err := net.Dial("tcp", w.to["echo"])
			if err != nil {
				return err
			}
			buf := make([]byte, 100)
			if _, err = trips(200, func() error { return echoOnce(conn, buf) }); err != nil {
				return err
			}
			took, err := trips(3000, func() error { return echoOnce(conn, buf) })
			if err != nil {
				return err
			}
			r.row("echo of 100 B").addTimes(w.name, took)
			_ = conn.Close()
		}
	}
	w, err := o.create("forward.md")
	if err != nil {
		return err
	}
	o.head(w, "Through the binaries")
	_, _ = fmt.Fprint(w, "A TCP connection to a port of `atls-ws device --forward`, over wss, to a service of `atls-ws server`. CPU is that of\n")
	_, _ = fmt.Fprintf(w, "both processes, without the ends; so is that of the relays, which are two processes that copy. Medians of %d rounds.\n\n", o.rounds)
	_, _ = fmt.Fprint(w, "| case | unit |")
	for i, x := range ways {
		_, _ = fmt.Fprintf(w, " %s |", x.name+map[bool]string{true: " | to the relays"}[i > 0])
	}
	_, _ = fmt.Fprintln(w, "\n|---|---|---:|---:|---|---:|---|")
	for _, x := range r.rows {
		for _, u := range x.units {
			_, _ = fmt.Fprintf(w, "| %s | %s |", x.name, u)
			for i, way := range ways {
				_, _ = fmt.Fprintf(w, " %s |", number(x.median(way.name, u)))
				if i > 0 {
					ratio, ok := x.ratio(way.name, ways[0].name, u)
					_, _ = fmt.Fprintf(w, " %sx |", number(ratio, ok))
				}
			}
			_, _ = fmt.Fprintln(w)
		}
	}
	return w.Close()
}

// startTargets starts what the services lead to.
func startTargets() (map[string]string, error) {
	targets := map[string]string{}
	for name, serve := range map[string]func(net.Conn){
		"sink": func(c net.Conn) {
			_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, 64<<10))
			_, _ = c.Write([]byte{1}) // all is here
		},
		"source": func(c net.Conn) {
			var n int
			_, _ = fmt.Fscanln(struct{ io.Reader }{c}, &n)
			_, _ = io.CopyBuffer(struct{ io.Writer }{c}, io.LimitReader(zeros{}, int64(n)), make([]byte, 64<<10))
		},
		"echo": func(c net.Conn) { _, _ = io.Copy(c, struct{ io.Reader }{c}) },
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		targets[name] = l.Addr().String()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() { serve(c); _ = c.Close() }()
			}
		}()
	}
	return targets, nil
}

func forwardBulk(row *row, name, addr string, up bool, total int, pids []int) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	before, start := processSeconds(pids), time.Now()
	if up {
		if _, err := io.CopyBuffer(struct{ io.Writer }{conn}, io.LimitReader(zeros{}, int64(total)), make([]byte, 64<<10)); err != nil {
			return err
		}
		_ = conn.(*net.TCPConn).CloseWrite()
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			return err
		}
	} else {
		_, _ = fmt.Fprintln(conn, total)
		if n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{conn}, make([]byte, 64<<10)); n != int64(total) {
			return fmt.Errorf("%d of %d bytes: %w", n, total, err)
		}
	}
	gib := float64(total) / (1 << 30)
	row.add(name, "CPU-s/GiB", (processSeconds(pids)-before)/gib)
	row.add(name, "MiB/s", gib*1024/time.Since(start).Seconds())
	return nil
}

// processSeconds is the CPU that processes have used, from /proc.
func processSeconds(pids []int) (sum float64) {
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0
		}
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		for _, v := range f[11:13] { // utime and stime, in ticks of 10 ms
			n, _ := strconv.ParseFloat(v, 64)
			sum += n / 100
		}
	}
	return sum
}

// forwarded is a server and a device process.
type forwarded struct {
	bin, dir string
	env      string            // of both; empty: none
	out      map[string]string // addresses on the device, by service
	running  []*exec.Cmd
}

func (f *forwarded) start(targets map[string]string) error {
	for _, args := range [][]string{{"pki", "init"}, {"pki", "device", "device-1"}} {
		cmd := exec.Command(f.bin, args...)
		cmd.Dir = f.dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	k, err := newKeys()
	if err != nil {
		return err
	}
	outer, err := k.ca.Server([]string{"localhost", "127.0.0.1"}, 0)
	if err == nil {
		err = outer.Write(f.dir, "outer", false)
	}
	if err != nil {
		return err
	}
	conf := "listen: 127.0.0.1:0\nouter: {cert: outer.pem, key: outer-key.pem}\ninner: {cert: pki/server.pem, key: pki/server-key.pem, client_ca: pki/ca.pem}\nadmin: admin.sock\ndata: data\nservices:\n"
	for name, addr := range targets {
		conf += fmt.Sprintf("  %s: tcp://%s\n", name, addr)
	}
	if err := os.WriteFile(filepath.Join(f.dir, "server.yaml"), []byte(conf), 0o600); err != nil {
		return err
	}
	addr, err := f.run(regexp.MustCompile(`msg=listening addr=(\S+)`), 1, "server", "--config", "server.yaml")
	if err != nil {
		return err
	}
	args := []string{"device", "--url", "https://" + addr[0], "--cert", "pki/device-device-1.pem", "--key", "pki/device-device-1-key.pem", "--ca", "pki/ca.pem"}
	names := slices.Sorted(func(yield func(string) bool) {
		for name := range targets {
			if !yield(name) {
				return
			}
		}
	})
	var taken []net.Listener // each until all are chosen
	for _, name := range names {
		l, err := net.Listen("tcp", "127.0.0.1:0") // a port that is free
		if err != nil {
			return err
		}
		taken = append(taken, l)
		f.out[name] = l.Addr().String()
		args = append(args, "--forward", f.out[name]+"="+name)
	}
	for _, l := range taken {
		_ = l.Close()
	}
	_, err = f.run(regexp.MustCompile(`msg="session (ready)"`), 1, args...)
	return err
}

// profile writes the server's CPU profile of five seconds of bulk to a file.
func (f *forwarded) profile(o *options, file string) error {
	admin := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(f.dir, "admin.sock"))
	}}}
	read := make(chan error, 1)
	go func() {
		resp, err := admin.Get("http://admin/debug/pprof/profile?seconds=5")
		if err != nil {
			read <- err
			return
		}
		b, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("profile: %s", resp.Status)
		}
		read <- errors.Join(err, os.WriteFile(file, b, 0o600))
	}()
	unread := newReport(o).row("")
	for {
		for _, service := range []string{"sink", "source"} {
			if err := forwardBulk(unread, "", f.out[service], service == "sink", o.mib<<20, nil); err != nil {
				return err
			}
		}
		select {
		case err := <-read:
			return err
		default:
		}
	}
}

// run starts a process and waits until it says something.
func (f *forwarded) run(want *regexp.Regexp, group int, args ...string) ([]string, error) {
	cmd := exec.Command(f.bin, args...)
	cmd.Dir = f.dir
	if f.env != "" {
		cmd.Env = append(os.Environ(), f.env)
	}
	out, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	f.running = append(f.running, cmd)
	lines := bufio.NewScanner(out)
	said := ""
	for lines.Scan() {
		if m := want.FindStringSubmatch(lines.Text()); m != nil {
			go func() {
				for lines.Scan() { //revive:disable-line:empty-block nobody wants the rest
				}
			}()
			return m[group:], nil
		}
		said += lines.Text() + "\n"
	}
	return nil, fmt.Errorf("%s ended: %s", strings.Join(args[:1], " "), said)
}

func (f *forwarded) pids() (pids []int) {
	for _, c := range f.running {
		pids = append(pids, c.Process.Pid)
	}
	return pids
}

func (f *forwarded) stop() {
	for _, c := range slices.Backward(f.running) {
		_ = c.Process.Signal(os.Interrupt)
		_ = c.Wait()
	}
}
