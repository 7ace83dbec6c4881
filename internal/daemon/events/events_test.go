package events

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/atls-ws/atls-ws/internal/daemon/admin"
)

func texts(t *testing.T, r *Reader) string {
	t.Helper()
	var all []string
	for {
		events, _, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if len(events) == 0 {
			return strings.Join(all, " ")
		}
		for _, e := range events {
			all = append(all, e.Text)
		}
	}
}

func open(t *testing.T, l *Log, after string) *Reader {
	t.Helper()
	r, err := l.Read(after)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Leave)
	return r
}

func TestReadersContinueWhereTheyWere(t *testing.T) {
	l := New(4)
	add := func(from, to int) {
		for i := from; i <= to; i++ {
			l.Add(admin.Event{Text: fmt.Sprint(i)})
		}
	}
	live := open(t, l, "")
	add(1, 3)
	if got := texts(t, live); got != "1 2 3" {
		t.Errorf("live: %q", got)
	}
	place := live.Place()
	add(4, 6)
	for _, tc := range []struct {
		after, want string
		missed      bool
	}{
		{"", "", false},
		{admin.Oldest, "3 4 5 6", false},
		{place, "4 5 6", false},
		{l.id(6), "", false},
		{l.id(2), "3 4 5 6", false},
		{l.id(1), "3 4 5 6", true},
		{l.id(7), "3 4 5 6", true}, // of the future
		{"OTHER-5", "3 4 5 6", true},
		{"nonsense", "3 4 5 6", true},
	} {
		r := open(t, l, tc.after)
		if got := texts(t, r); got != tc.want || r.Missed != tc.missed {
			t.Errorf("after %q: %q, missed %v", tc.after, got, r.Missed)
		}
	}
	add(7, 8)
	if _, _, err := live.Next(); !errors.Is(err, ErrSlow) {
		t.Errorf("a slow reader: %v", err)
	}
}

func TestNextWaitsAndCloseEndsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(4)
		r, err := l.Read("")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			defer r.Leave()
			for {
				_, more, err := r.Next()
				if errors.Is(err, ErrClosed) {
					return
				}
				if more != nil {
					<-more
				}
			}
		}()
		l.Add(admin.Event{Text: strings.Repeat("x", 2*maxText)})
		synctest.Wait()
		if r.Place() != l.id(1) || len(l.ring[1].Text) != maxText || l.ring[1].Time.IsZero() {
			t.Errorf("%s %+v", r.Place(), l.ring[1])
		}
		l.Close()
		if _, err := l.Read(""); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
}

func TestReadersAreBounded(t *testing.T) {
	l := New(4)
	for range maxReaders {
		open(t, l, "")
	}
	if _, err := l.Read(""); !errors.Is(err, ErrBusy) {
		t.Error(err)
	}
}
