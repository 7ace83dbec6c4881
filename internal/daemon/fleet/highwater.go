package fleet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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

// checkHighWater compares the store that was opened with what was noted of it.
func (s *store) checkHighWater(queue string, last uint64) error {
	if s.dir == "" {
		return nil
	}
	path := filepath.Join(s.dir, highWaterFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s.noteHighWater(queue, last)
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
	return s.noteHighWater(queue, last)
}

func (s *store) noteHighWater(queue string, last uint64) error {
	if s.dir == "" {
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
