package server

import (
	"iter"
	"slices"
	"sync"
)

// maxAlternatives bounds the sessions that a device may have at once.
const maxAlternatives = 3

// Registry is the sessions that are up. A device has one, or for a moment
// several of the same attempt, of which the newest counts. Its methods may be
// called at any time.
type Registry struct {
	mu       sync.Mutex
	sessions map[string][]*Session // oldest first, never empty
	awaited  map[string]*awaited
}

// Get returns the device's session.
func (r *Registry) Get(device string) (*Session, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if all := r.sessions[device]; len(all) > 0 {
		return all[len(all)-1], true
	}
	return nil, false
}

// Len is how many devices are connected.
func (r *Registry) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.sessions)
}

// All iterates over the devices' sessions that are up when it starts, in no order.
func (r *Registry) All() iter.Seq[*Session] {
	return func(yield func(*Session) bool) {
		r.mu.Lock()
		newest := make([]*Session, 0, len(r.sessions))
		for _, all := range r.sessions {
			newest = append(newest, all[len(all)-1])
		}
		r.mu.Unlock()
		for _, s := range newest {
			if !yield(s) {
				return
			}
		}
	}
}

// put makes s the device's session and returns those it replaces: all that are
// not of the same attempt.
func (r *Registry) put(s *Session) (replaced []*Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.sessions[s.Device()]
	keep := 0
	if attempt := s.Hello().Attempt; attempt != "" {
		for _, old := range all {
			if old.Hello().Attempt == attempt {
				keep++
			}
		}
	}
	keep = min(keep, maxAlternatives-1)
	cut := len(all) - keep // an attempt's sessions follow each other
	replaced = slices.Clone(all[:cut])
	r.sessions[s.Device()] = append(slices.Clone(all[cut:]), s)
	r.arrivedLocked(s.Device())
	return replaced
}

// remove forgets s; an older session of the same attempt counts again.
func (r *Registry) remove(s *Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	left := slices.DeleteFunc(slices.Clone(r.sessions[s.Device()]), func(o *Session) bool { return o == s })
	if len(left) == 0 {
		delete(r.sessions, s.Device())
		return
	}
	r.sessions[s.Device()] = left
}
