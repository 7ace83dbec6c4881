package main

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestTheSameReasonIsSaidOnceAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		c := &complaint{log: slog.New(slog.NewTextHandler(&log, nil)), explain: func(err error) (string, string) {
			return err.Error() + " of a port that differs each time", "look at " + err.Error()
		}}
		for range 100 {
			c.say(errors.New("dns"), time.Minute)
			time.Sleep(time.Minute)
		}
		if n := strings.Count(log.String(), "not connected"); n != 2 || !strings.Contains(log.String(), "failures=60 for=1h0m0s") {
			t.Errorf("said %d times:\n%s", n, &log)
		}
		log.Reset()
		c.say(errors.New("route"), time.Minute)
		c.say(errors.New("dns"), time.Minute)
		if n := strings.Count(log.String(), "not connected"); n != 2 {
			t.Errorf("what changes is said %d times of 2", n)
		}
	})
}
