package server

import (
	"iter"
	"sync"
)

// Registry is the sessions that are up, one a device. Its methods may be called
// at any time.
type Registry struct {
	mu       sync.Mutex
	sessions map[string]*Session
}

// Get returns the device's session.
func (r *Registry) Get(device string) (*Session, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.sessions[device]
	return s, ok
}

// Len is how many devices are connected.
func (r *Registry) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.sessions)
}

// All iterates over the sessions that are up when it starts, in no order.
func (r *Registry) All() iter.Seq[*Session] {
	return func(yield func(*Session) bool) {
		r.mu.Lock()
		all := make([]*Session, 0, len(r.sessions))
		for _, s := range r.sessions {
			all = append(all, s)
		}
		r.mu.Unlock()
		for _, s := range all {
			if !yield(s) {
				return
			}
		}
	}
}

// put makes s the device's session and returns the one it replaces.
func (r *Registry) put(s *Session) (old *Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old = r.sessions[s.Device()]
	r.sessions[s.Device()] = s
	return old
}

// remove forgets s, unless a newer one has taken its place.
func (r *Registry) remove(s *Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sessions[s.Device()] == s {
		delete(r.sessions, s.Device())
	}
}
