package device

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/atls-ws/atls-ws/client"
)

// keepAgain is how often what could not be kept is tried again.
const keepAgain = 10 * time.Second

// keeper writes what the state directory keeps, says once that it cannot, and
// tries until it can.
//
// A signal is acked although its place could not be kept. Without the ack it would
// come again in the next session, and after a restart it would be handled twice
// for certain; with it, only if the ack itself is lost and the device restarts
// before the next one arrives. To refuse signals until there is room would take
// from the operator what he makes room with.
type keeper struct {
	dir     string
	log     *slog.Logger
	applied *client.Applied

	writing sync.Mutex // held while the disk takes its time
	marked  bool

	mu     sync.Mutex
	at     client.Position // to be written, if it has a queue
	told   time.Time       // likewise
	failed error           // of the latest write
	since  time.Time
}

// save keeps a position, or notes that it cannot. It returns nil: what is to be
// said of it is said here, and not once for each signal.
func (k *keeper) save(p client.Position) error {
	k.mu.Lock()
	k.at = p
	k.mu.Unlock()
	k.write()
	return nil
}

// saveTime keeps the time that a server told.
func (k *keeper) saveTime(t time.Time) {
	if k.dir == "" || t.IsZero() {
		return
	}
	k.mu.Lock()
	k.told = t
	k.mu.Unlock()
	k.write()
}

// run tries again what has failed, until ctx ends.
func (k *keeper) run(ctx context.Context) {
	tick := time.NewTicker(keepAgain)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			k.again() // there may be room by now
			return
		}
		k.again()
	}
}

func (k *keeper) again() {
	if _, err := k.trouble(); err != nil {
		k.write()
	}
}

// trouble is since when and why the state is not kept; nil when it is. It does
// not wait for the disk.
func (k *keeper) trouble() (since time.Time, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.since, k.failed
}

// write writes what there is to write, and returns when it is on the disk.
func (k *keeper) write() {
	k.writing.Lock()
	defer k.writing.Unlock()
	k.mu.Lock()
	at, told := k.at, k.told
	k.mu.Unlock()
	var err error
	if !k.marked {
		err = k.mark() // the directory may be as new as the disk
		k.marked = err == nil
	}
	if err == nil && at.Queue != "" {
		err = savePosition(k.dir, at)
	}
	if err == nil && !told.IsZero() {
		err = noteTime(k.dir, told)
	}
	k.note(err)
	if err != nil {
		k.marked = false
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.at == at {
		k.at = client.Position{}
	}
	if k.told.Equal(told) {
		k.told = time.Time{}
	}
}

// note says that writing has begun to fail, or has ended to.
func (k *keeper) note(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch was := k.failed; {
	case err != nil && was == nil:
		k.since = time.Now().UTC()
		k.log.Warn("the state is not kept: it cannot be written", "dir", k.dir, "err", err, "means", notKept,
			"next", "make room, or the disk writable: what is missing is then written by itself")
	case err == nil && was != nil:
		k.log.Info("the state is kept again", "dir", k.dir, "after", time.Since(k.since).Round(time.Second).String())
	}
	k.failed = err
}

// notKept is what a state that is not kept leads to.
const notKept = "signals are handled and acked; over a restart, one whose ack did not arrive is handled again, and the time that the server told is forgotten"
