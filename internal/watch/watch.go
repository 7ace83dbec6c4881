// Package watch notices that files have changed. It looks at them now and then,
// which works on every file system, through links, and for files that are
// replaced by a rename.
package watch

import (
	"context"
	"maps"
	"os"
	"time"
)

// Every is how often files are looked at.
const Every = time.Second

// Files are looked at while Run runs.
type Files struct {
	// Paths are the files to look at now; those that are not there count too.
	Paths func() []string
	// Every is the time between two looks; 0 is the package's Every.
	Every time.Duration
	// Ask makes Changed be called at once; nil: never.
	Ask <-chan struct{}
	// Changed is called when a file has changed and then stayed as it is for one
	// look, so that a certificate and its key are not read half-written.
	Changed func(asked bool)

	seen map[string]version
}

// Note takes the files as they are now for what is known; without it Run does
// so when it begins.
func (f *Files) Note() { f.seen = f.look() }

type version struct {
	modified time.Time
	size     int64
	there    bool
}

// Run looks until ctx ends.
func (f *Files) Run(ctx context.Context) {
	every := f.Every
	if every <= 0 {
		every = Every
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	if f.seen == nil {
		f.Note()
	}
	seen, last := f.seen, f.seen
	for {
		asked := false
		select {
		case <-ctx.Done():
			return
		case <-f.Ask:
			asked = true
			seen = f.look() // before it is read: a change meanwhile is seen next time
		case <-tick.C:
			now := f.look()
			settled := maps.Equal(now, last)
			last = now
			if !settled || maps.Equal(now, seen) {
				continue
			}
			seen = now
		}
		f.Changed(asked)
		// What the files name may be others now. Those are new, not changed.
		now := f.look()
		for path, v := range now {
			if _, ok := seen[path]; !ok {
				seen[path] = v
			}
		}
		maps.DeleteFunc(seen, func(path string, _ version) bool { _, ok := now[path]; return !ok })
		last = now
	}
}

func (f *Files) look() map[string]version {
	all := map[string]version{}
	for _, path := range f.Paths() {
		if path == "" {
			continue
		}
		v := version{}
		if info, err := os.Stat(path); err == nil {
			v = version{info.ModTime(), info.Size(), true}
		}
		all[path] = v
	}
	return all
}
