//go:build unix

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
)

// relays are two processes, one behind the other, that copy without looking:
// what a forward through two processes costs at the least.
type relays struct{ running []*exec.Cmd }

// start returns the addresses by which targets are reached through both.
func (r *relays) start(targets map[string]string) (map[string]string, error) {
	names := make([]string, 0, len(targets))
	for name := range targets {
		names = append(names, name)
	}
	slices.Sort(names)
	for range 2 {
		args := []string{"relay"}
		for _, name := range names {
			args = append(args, targets[name])
		}
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		cmd := exec.Command(self, args...)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		r.running = append(r.running, cmd)
		lines, next := bufio.NewScanner(out), map[string]string{}
		for _, name := range names {
			if !lines.Scan() {
				return nil, errors.New("a relay did not start")
			}
			next[name] = lines.Text()
		}
		targets = next
	}
	return targets, nil
}

func (r *relays) pids() (pids []int) {
	for _, c := range r.running {
		pids = append(pids, c.Process.Pid)
	}
	return pids
}

func (r *relays) stop() {
	for _, c := range slices.Backward(r.running) {
		_ = c.Process.Kill()
		_ = c.Wait()
	}
}

// serveRelay is one of the two processes: it says on standard output where it
// listens for each address of its arguments.
func serveRelay(o *options) error {
	for _, to := range o.args {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		fmt.Println(l.Addr())
		go func() {
			for {
				a, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					b, err := net.Dial("tcp", to)
					if err != nil {
						_ = a.Close()
						return
					}
					go relay(a, b)
					relay(b, a)
				}()
			}
		}()
	}
	select {} // it is killed
}

// relay copies without splice(2), as a program that looks at the bytes does.
func relay(dst, src net.Conn) {
	_, _ = io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, make([]byte, 32<<10))
	_ = dst.(*net.TCPConn).CloseWrite()
}
