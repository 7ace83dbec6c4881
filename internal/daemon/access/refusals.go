package access

import (
	"net"
	"sync"
	"time"
)

// Why somebody is not let in who asks for something that is an operator's, before
// any rule is asked. They are also values of a label of the metrics.
const (
	NoCredentials = "no_credentials" // neither a certificate nor a token: a browser's first visit, mostly
	WrongToken    = "wrong_token"
	OtherSite     = "other_site" // a page elsewhere, in an operator's browser
	OtherHost     = "other_host" // a host that is not this server's
)

// ActionLogin is what Record says of these, and of who has logged in.
const ActionLogin = "login"

const (
	refusalWindow  = time.Minute
	refusalSources = 16 // that have lines of their own in a window
)

// Refused records that somebody at the address from was not let in. From one
// address the audit log has the first refusal for a reason at once and the number
// of the others a minute later, and when many addresses try it has their sum: a
// stranger does not fill the disk. Of who shows nothing it has nothing.
func (g *Guard) Refused(from, reason string) {
	r := Record{Who: "nobody", Action: ActionLogin, From: from, Rule: reason}
	if g.Observe != nil {
		g.Observe(r)
	}
	if reason != NoCredentials {
		g.refusals.add(r)
	}
}

// Entered records that an operator has logged in.
func (g *Guard) Entered(o Operator, from string) {
	g.record(Record{Who: o.String(), Action: ActionLogin, From: from}, Decision{true, "token"})
}

// refusals joins records of strangers.
type refusals struct {
	write func(Record)

	mu     sync.Mutex
	closed bool
	timer  *time.Timer // of the window; nil: none is open
	seen   map[source]int
	others map[string]int // by reason
}

// source is where a refusal comes from, and why.
type source struct{ host, reason string }

func (f *refusals) add(r Record) {
	host, _, err := net.SplitHostPort(r.From)
	if err != nil {
		host = r.From
	}
	from := source{host, r.Rule}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return
	}
	if f.timer == nil {
		f.seen, f.others = map[source]int{}, map[string]int{}
		f.timer = time.AfterFunc(refusalWindow, f.flush)
	}
	if _, again := f.seen[from]; again {
		f.seen[from]++
		return
	}
	if len(f.seen) >= refusalSources {
		f.others[r.Rule]++
		return
	}
	f.seen[from] = 0
	r.Time = time.Now().UTC()
	f.write(r)
}

func (f *refusals) flush() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.flushLocked()
}

// flushLocked writes the numbers and ends the window.
func (f *refusals) flushLocked() {
	if f.timer == nil {
		return
	}
	f.timer.Stop()
	f.timer = nil
	more := func(n int, from, reason string) {
		if n > 0 {
			f.write(Record{Time: time.Now().UTC(), Who: "nobody", Action: ActionLogin, From: from, Rule: reason, More: n})
		}
	}
	for from, n := range f.seen {
		more(n, from.host, from.reason)
	}
	for reason, n := range f.others {
		more(n, "other addresses", reason)
	}
}

// close writes what is still to be written.
func (f *refusals) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.flushLocked()
	f.closed = true
}
