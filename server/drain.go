package server

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// Devices are asked to come back in batches: so many a second that whoever takes
// them next can, but all of them while the shutdown lasts.
const (
	drainLead   = time.Second            // before the first comes back: what spreads connections has noticed by then
	drainStep   = 100 * time.Millisecond // between two batches
	drainRate   = 50                     // devices a second, when there is the time
	drainLeast  = 3 * time.Second        // for many, so that they do not come back within one second
	drainShare  = 0.7                    // of the shutdown's time; the rest is for the last to go
	drainNormal = 30 * time.Second       // where ctx has no deadline
)

// Shutdown asks all devices to reconnect, in batches that are spread over the
// time that ctx has, waits for them to go while ctx lasts, and closes. Meanwhile
// sessions work on, and those with streams to services are asked last, when the
// streams have ended or most of the time is over. New connections get 503.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	live := make([]*Session, 0, len(s.live))
	for sess := range s.live {
		live = append(live, sess)
	}
	s.mu.Unlock()
	s.drain(ctx, slices.Clone(live))
	for _, sess := range live {
		select {
		case <-sess.Done():
			continue
		case <-ctx.Done():
		}
		break
	}
	return errors.Join(ctx.Err(), s.Close())
}

// drain returns when all have been asked.
func (s *Server) drain(ctx context.Context, left []*Session) {
	window := drainNormal
	if end, ok := ctx.Deadline(); ok {
		window = time.Duration(drainShare * float64(time.Until(end)))
	}
	idle := max(min(window, max(drainLeast, time.Duration(len(left))*time.Second/drainRate)), drainStep)
	batch := 1 + len(left)*int(drainStep)/int(idle)
	end := time.Now().Add(window)
	tick := time.NewTicker(drainStep)
	defer tick.Stop()
	var telling sync.WaitGroup
	defer telling.Wait()
	var mu sync.Mutex
	pending := 0         // being told
	var again []*Session // that could not be told
	for {
		mu.Lock()
		left, again = append(left, again...), nil
		mu.Unlock()
		late, asked := time.Now().After(end), 0
		left = slices.DeleteFunc(left, func(sess *Session) bool {
			select {
			case <-sess.Done():
				return true
			default:
			}
			if !late && (asked >= batch || sess.InUse()) {
				return false
			}
			asked++
			mu.Lock()
			pending++
			mu.Unlock()
			telling.Go(func() {
				told, cancel := context.WithTimeout(ctx, byeTimeout)
				defer cancel()
				err := sess.Drain(told, drainLead, drainStep)
				mu.Lock()
				defer mu.Unlock()
				pending--
				if err != nil && ctx.Err() == nil {
					s.cfg.Logger.Debug("device is not asked to reconnect yet", "device", sess.Device(), "session", sess.ID(), "err", err)
					again = append(again, sess)
				}
			})
			return true
		})
		mu.Lock()
		over := len(left)+len(again)+pending == 0
		mu.Unlock()
		if over {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
