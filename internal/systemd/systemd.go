// Package systemd speaks with the service manager: sd_notify(3), its watchdog,
// and sockets that it has opened (sd_listen_fds(3)). Without one nothing happens.
package systemd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// States for Notify.
const (
	Ready     = "READY=1"
	Stopping  = "STOPPING=1"
	Reloading = "RELOADING=1"
	watchdog  = "WATCHDOG=1"
)

// firstSocket is the descriptor of the first socket that is passed on.
const firstSocket = 3

// Status is a line that systemctl status shows.
func Status(text string) string { return "STATUS=" + strings.ReplaceAll(text, "\n", " ") }

// Notify tells the service manager of states. An error means that there is one
// and that it cannot be told.
func Notify(states ...string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	if path[0] == '@' {
		path = "\x00" + path[1:] // in the abstract name space
	}
	conn, err := new(net.Dialer).DialContext(context.Background(), "unixgram", path)
	if err != nil {
		return fmt.Errorf("notify: %w", err)
	}
	_, err = conn.Write([]byte(strings.Join(states, "\n")))
	return errors.Join(err, conn.Close())
}

// Watchdog is how often the service manager wants to hear that this process
// works; 0 is never.
func Watchdog() time.Duration {
	usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if pid := os.Getenv("WATCHDOG_PID"); err != nil || usec <= 0 || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	return time.Duration(usec) * time.Microsecond
}

// Feed says at half of the watchdog's time that the process works, as long as
// works returns nil, until ctx ends. It returns at once when there is no watchdog.
func Feed(ctx context.Context, works func() error) {
	every := Watchdog() / 2
	if every <= 0 {
		return
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if works() == nil {
			_ = Notify(watchdog) // a lost one is followed by another
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Listeners are the stream sockets that the service manager has opened for this
// process, by the names of its units (FileDescriptorName=). The caller closes
// them. They are given once; a program that is started from here gets none.
func Listeners() (map[string]net.Listener, error) {
	pid, count, names := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	for _, v := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		_ = os.Unsetenv(v)
	}
	n, err := strconv.Atoi(count)
	if err != nil || n <= 0 || pid != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	all := map[string]net.Listener{}
	for i := range n {
		name := "unknown"
		if i < len(names) && names[i] != "" {
			name = names[i]
		}
		file := os.NewFile(uintptr(firstSocket+i), name)
		l, err := net.FileListener(file) // a copy, closed on exec
		_ = file.Close()
		if _, twice := all[name]; err == nil && twice {
			err = errors.Join(errors.New("there are two of that name"), l.Close())
		}
		if err != nil {
			for _, l := range all {
				_ = l.Close()
			}
			return nil, fmt.Errorf("socket %s of the service manager: %w", name, err)
		}
		all[name] = l
	}
	return all, nil
}
