package expose

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	maxLine  = 4 << 10         // of a program's standard error that is one line of the log
	pipeWait = 2 * time.Second // for pipes that a program's children hold open
)

// serveExec runs a program for a stream: its standard input and output. The
// program's end is the stream's; the stream's failure, or gone, ends the
// program with all that it started.
func serveExec(ctx context.Context, conn net.Conn, gone <-chan struct{}, command []string, log *slog.Logger) error {
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	lines := &lineLogger{log: log}
	cmd.Stderr = lines
	cmd.WaitDelay = pipeWait
	ownGroup(cmd)
	cmd.Cancel = func() error { return killGroup(cmd) }
	in, err := cmd.StdinPipe()
	var out, theirs *os.File
	if err == nil {
		// Not StdoutPipe: Wait would close it before a slow peer has read all.
		if out, theirs, err = os.Pipe(); err == nil {
			defer func() { _ = out.Close() }()
			cmd.Stdout = theirs
			err = cmd.Start()
			_ = theirs.Close()
		}
	}
	if err != nil {
		abort(conn)
		log.Warn("service's program cannot run", "err", err)
		return err
	}
	log.Info("service's program runs", "pid", cmd.Process.Pid)
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-gone:
			cancel()
		case <-ctx.Done():
		}
	})
	wg.Go(func() {
		_, err := io.Copy(in, conn)
		_ = in.Close()
		// A program that does not read on is no failure; a stream that broke is.
		if err != nil && !errors.Is(err, syscall.EPIPE) {
			cancel()
		}
	})
	rest := &output{File: out}
	copied := make(chan struct{})
	wg.Go(func() {
		defer close(copied)
		if _, err := io.Copy(conn, rest); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			cancel() // nobody takes what it says
		}
	})
	err = cmd.Wait()
	_ = killGroup(cmd) // what it started and left, before the id can be another's
	rest.end()
	<-copied
	lines.flush()
	if ctx.Err() != nil {
		abort(conn)
	}
	cancel()
	_ = conn.Close() // what the program wrote still goes out
	wg.Wait()
	log.Info("service's program ended", "err", err)
	return err
}

// output is the read end of a program's standard output. After the program's
// end it waits a moment at most for what is left in the pipe: a process that
// left the group may hold it open.
type output struct {
	*os.File
	ended atomic.Bool
}

func (o *output) end() {
	o.ended.Store(true)
	_ = o.SetReadDeadline(time.Now().Add(pipeWait))
}

func (o *output) Read(p []byte) (int, error) {
	if o.ended.Load() {
		_ = o.SetReadDeadline(time.Now().Add(pipeWait))
	}
	return o.File.Read(p)
}

// WriteTo hides the File's own, which would pass Read by.
func (o *output) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{o})
}

// lineLogger logs what is written to it, a line at a time.
type lineLogger struct {
	log  *slog.Logger
	line []byte
}

func (l *lineLogger) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		line, rest, whole := bytes.Cut(p, []byte("\n"))
		l.line = append(l.line, line[:min(len(line), maxLine-len(l.line))]...)
		if whole {
			l.flush()
		}
		p = rest
	}
	return n, nil
}

func (l *lineLogger) flush() {
	if len(l.line) > 0 {
		l.log.Info("service's program says", "text", string(bytes.ToValidUTF8(l.line, []byte("?"))))
	}
	l.line = l.line[:0]
}
