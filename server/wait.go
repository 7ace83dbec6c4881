package server

import "context"

// awaited is a device that somebody waits for.
type awaited struct {
	waiters int
	arrived chan struct{} // closed when it connects
}

// Wait returns the device's session, waiting for it to connect as long as ctx
// lets it.
func (r *Registry) Wait(ctx context.Context, device string) (*Session, error) {
	for {
		r.mu.Lock()
		if all := r.sessions[device]; len(all) > 0 {
			r.mu.Unlock()
			return all[len(all)-1], nil
		}
		if r.awaited == nil {
			r.awaited = map[string]*awaited{}
		}
		a := r.awaited[device]
		if a == nil {
			a = &awaited{arrived: make(chan struct{})}
			r.awaited[device] = a
		}
		a.waiters++
		r.mu.Unlock()
		select {
		case <-a.arrived:
		case <-ctx.Done():
			r.mu.Lock()
			if a.waiters--; a.waiters == 0 && r.awaited[device] == a {
				delete(r.awaited, device)
			}
			r.mu.Unlock()
			return nil, ctx.Err()
		}
	}
}

func (r *Registry) arrivedLocked(device string) {
	if a := r.awaited[device]; a != nil {
		delete(r.awaited, device)
		close(a.arrived)
	}
}
