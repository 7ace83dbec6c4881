package systemd

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The test's binary is also the program that gets sockets.
func TestMain(m *testing.M) {
	if os.Getenv("ATLS_TEST_CHILD") == "" {
		os.Exit(m.Run())
	}
	_ = os.Setenv("LISTEN_PID", fmt.Sprint(os.Getpid()))
	all, err := Listeners()
	again, _ := Listeners()
	fmt.Println(len(all), err, len(again), os.Getenv("LISTEN_FDS"))
	if l := all["outer"]; l != nil {
		c, err := l.Accept()
		if err == nil {
			_, _ = io.WriteString(c, "hello")
			_ = c.Close()
		}
	}
	os.Exit(0)
}

func TestNotifyAndWatchdog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenPacket("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "20000")
	told := func() string {
		b := make([]byte, 256)
		n, _, err := l.ReadFrom(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	if err := Notify(Ready, Status("all\nwell")); err != nil || told() != "READY=1\nSTATUS=all well" {
		t.Errorf("ready: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { Feed(ctx, func() error { return nil }); close(done) }()
	for range 2 {
		if got := told(); got != "WATCHDOG=1" {
			t.Errorf("told %q", got)
		}
	}
	cancel()
	<-done
	t.Setenv("WATCHDOG_PID", "1")
	if Watchdog() != 0 {
		t.Error("another process's watchdog")
	}
	t.Setenv("NOTIFY_SOCKET", "")
	if err := Notify(Ready); err != nil {
		t.Error(err)
	}
}

func TestSocketsArePassedOnByName(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(slices.Clone(os.Environ()), "ATLS_TEST_CHILD=1", "LISTEN_FDS=1", "LISTEN_FDNAMES=outer")
	cmd.ExtraFiles = []*os.File{file}
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = file.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(c)
	_ = c.Close()
	if err := cmd.Wait(); err != nil || string(b) != "hello" || strings.TrimSpace(out.String()) != "1 <nil> 0" {
		t.Errorf("%v: %q, program said %q", err, b, out.String())
	}
	if all, err := Listeners(); all != nil || err != nil { // here there are none
		t.Errorf("%v, %v", all, err)
	}
}
