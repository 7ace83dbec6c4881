package fleet

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// highWater is how far the queues had come when it was last noted, beside the
// embedded store. JetStream takes a block whose end is damaged for one whose
// last write was cut short, and goes on before it: signals would be lost without
// a word, and new ones get sequences that devices have handled.
type highWater struct {
	Queue   string `json:"queue"`
	LastSeq uint64 `json:"last_seq"`
}

const highWaterFile = "queue.json"

// checkHighWater compares the store that was opened with what was noted of it,
// and returns the incarnation of the queues. Without a note, of a store that was
// there, it is a new one: so an operator who restores a backup, which cannot
// know what devices have handled since, keeps them from taking new signals for
// old ones.
func (s *store) checkHighWater(ctx context.Context, queue string, last uint64) (string, error) {
	if s.dir == "" || s.clustered { // the other nodes know, and bring this one's store up to date
		return queue, nil
	}
	err := s.compareHighWater(queue, last)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
		if slices.Contains(s.onDisk, signalStream) {
			queue, err = s.renewQueue(ctx)
		}
	}
	if err != nil {
		return "", err
	}
	return queue, s.noteHighWater(queue, last)
}

// renewQueue gives the queues a new incarnation.
func (s *store) renewQueue(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	st, err := s.js.Stream(ctx, signalStream)
	if err != nil {
		return "", s.unavailable(err)
	}
	c := st.CachedInfo().Config
	c.Metadata[queueKey] = rand.Text()
	if _, err := s.js.UpdateStream(ctx, c); err != nil {
		return "", s.unavailable(err)
	}
	s.log.Warn("the queues begin a new incarnation: there was no " + highWaterFile)
	return c.Metadata[queueKey], nil
}

func (s *store) compareHighWater(queue string, last uint64) error {
	path := filepath.Join(s.dir, highWaterFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return err
	} else if err != nil {
		return dirError(s.dir, err)
	}
	var h highWater
	switch err := json.Unmarshal(data, &h); {
	case err != nil:
		return corrupt(s.dir, fmt.Errorf("%s cannot be read: %w", highWaterFile, err))
	case h.Queue != queue:
		return corrupt(s.dir, errors.New("the signals that were in it are gone"))
	case last < h.LastSeq:
		return corrupt(s.dir, fmt.Errorf("%s ends at signal %d, and has held %d", signalStream, last, h.LastSeq))
	}
	return nil
}

func (s *store) noteHighWater(queue string, last uint64) error {
	if s.dir == "" || s.clustered {
		return nil
	}
	data, err := json.Marshal(highWater{queue, last})
	if err != nil {
		return err
	}
	path := filepath.Join(s.dir, highWaterFile)
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return dirError(s.dir, err)
	}
	_, err = f.Write(append(data, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return dirError(s.dir, err)
	}
	return nil
}
