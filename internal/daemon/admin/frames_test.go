package admin

import (
	"bufio"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func frames(keepalive time.Duration) (a, b *Frames) {
	x, y := net.Pipe()
	return NewFrames(x, bufio.NewReader(x), keepalive), NewFrames(y, bufio.NewReader(y), keepalive)
}

func TestFramesTellAnEndFromACut(t *testing.T) {
	for name, tc := range map[string]struct {
		end  func(*Frames)
		want error
	}{
		"half-close": {func(f *Frames) { _ = f.CloseWrite() }, nil},
		"close":      {func(f *Frames) { _ = f.Close() }, nil},
		"reset":      {func(f *Frames) { f.Reset() }, errCut},
		"cut":        {func(f *Frames) { _ = f.Conn.Close() }, errCut},
		"garbage":    {func(f *Frames) { _, _ = f.Conn.Write([]byte{9, 0, 0}); _ = f.Conn.Close() }, errFrames},
		"half a frame": {func(f *Frames) {
			_, _ = f.Conn.Write([]byte{frameData, 0, 9, 'x'})
			_ = f.Conn.Close()
		}, errCut},
	} {
		a, b := frames(time.Minute)
		sent := strings.Repeat("0123456789", 10_000)
		go func() {
			_, _ = io.WriteString(a, sent)
			tc.end(a)
		}()
		got, err := io.ReadAll(b)
		if !errors.Is(err, tc.want) || strings.TrimSuffix(string(got), "x") != sent {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		_, _ = a.Close(), b.Close()
	}
}

func TestFramesThatRestStayAndADeadPeerIsNoticed(t *testing.T) {
	for name, tc := range map[string]struct {
		reads, writes bool // of the end that stays
		dead          bool
	}{
		"both live": {reads: true},
		"reads":     {reads: true, dead: true},
		"writes":    {writes: true, dead: true}, // after the peer's end
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x, y := net.Pipe()
				a := NewFrames(x, bufio.NewReader(x), 25*time.Second)
				defer func() { _ = a.Close() }()
				if tc.dead {
					if tc.writes {
						go func() { _, _ = y.Write([]byte{frameEnd, 0, 0}) }()
						if _, err := a.Read(make([]byte, 1)); err != io.EOF {
							t.Fatal(err)
						}
					}
				} else {
					b := NewFrames(y, bufio.NewReader(y), 25*time.Second)
					go func() {
						time.Sleep(time.Hour)
						_, _ = b.Write([]byte("x"))
					}()
					go func() { _, _ = io.Copy(io.Discard, b) }()
					defer func() { _ = b.Close() }()
				}
				defer func() { _ = y.Close() }()
				began := time.Now()
				var err error
				if tc.writes {
					_, err = a.Write(make([]byte, 1<<20))
				} else {
					_, err = a.Read(make([]byte, 1))
				}
				after := time.Since(began)
				if tc.dead && (err == nil || !strings.Contains(err.Error(), "nothing was heard for") || after.Round(time.Second) != 75*time.Second) ||
					!tc.dead && (err != nil || after < time.Hour) {
					t.Errorf("%v after %s", err, after)
				}
			})
		})
	}
}
