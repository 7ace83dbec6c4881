package access

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestRefusalsOfStrangersAreCountedAndBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var got []string
		take := func() []string {
			mu.Lock()
			defer mu.Unlock()
			defer func() { got = nil }()
			return got
		}
		f := &refusals{write: func(r Record) {
			mu.Lock()
			defer mu.Unlock()
			if r.Time.IsZero() || r.Allowed || r.Who != "nobody" {
				t.Errorf("%+v", r)
			}
			got = append(got, fmt.Sprint(r.From, " ", r.Rule, " ", r.More))
		}}
		expect := func(want ...string) {
			t.Helper()
			if got := take(); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%q, want %q", got, want)
			}
		}
		for port := range 1000 {
			f.add(Record{Who: "nobody", From: fmt.Sprint("192.0.2.1:", 1024+port), Rule: WrongToken})
		}
		expect("192.0.2.1:1024 wrong_token 0")
		f.add(Record{Who: "nobody", From: "192.0.2.1:7", Rule: OtherSite})
		expect("192.0.2.1:7 other_site 0")
		time.Sleep(refusalWindow)
		synctest.Wait()
		expect("192.0.2.1 wrong_token 999")

		for n := range 5000 {
			f.add(Record{Who: "nobody", From: fmt.Sprintf("[2001:db8::%x]:1", n), Rule: WrongToken})
		}
		if n := len(take()); n != refusalSources {
			t.Errorf("%d lines at once", n)
		}
		time.Sleep(refusalWindow)
		synctest.Wait()
		expect(fmt.Sprintf("other addresses wrong_token %d", 5000-refusalSources))

		// What is counted is not lost with the end.
		f.add(Record{Who: "nobody", From: "a:1", Rule: WrongToken})
		f.add(Record{Who: "nobody", From: "a:2", Rule: WrongToken})
		f.close()
		expect("a:1 wrong_token 0", "a wrong_token 1")
		f.add(Record{Who: "nobody", From: "a:3", Rule: WrongToken})
		time.Sleep(2 * refusalWindow)
		expect()
	})
}
