package fleet

import (
	"archive/zip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	snapshotChunk = 128 << 10
	snapshotIdle  = 30 * time.Second // without a chunk or an answer
	backupFormat  = "1"              // the archive's comment
)

// snapshot is JetStream's answer to a request for one, less what is not used
// again; what the restoring asks for is the same.
type snapshot struct {
	Config json.RawMessage `json:"config"`
	State  json.RawMessage `json:"state"`
}

// Backup writes snapshots of all streams to w, a zip archive, while signals come
// and go. The queues are first: a signal that is answered meanwhile is in both
// them and the outcomes, and is handled again after a restore.
func (f *Fleet) Backup(ctx context.Context, w io.Writer) error {
	z := zip.NewWriter(w)
	if err := z.SetComment(backupFormat); err != nil {
		return err
	}
	for _, stream := range keptStreams {
		if err := f.store.snapshot(ctx, z, stream); err != nil {
			return fmt.Errorf("backup of %s: %w", stream, err)
		}
	}
	return z.Close()
}

func (s *store) snapshot(ctx context.Context, z *zip.Writer, stream string) error {
	inbox := nats.NewInbox()
	sub, err := s.nc.SubscribeSync(inbox)
	if err != nil {
		return s.unavailable(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	request, _ := json.Marshal(map[string]any{"deliver_subject": inbox, "no_consumers": true, "chunk_size": snapshotChunk})
	m, err := s.nc.RequestWithContext(ctx, "$JS.API.STREAM.SNAPSHOT."+stream, request)
	if err != nil {
		return s.unavailable(err)
	}
	if err := apiError(m); err != nil {
		return err
	}
	var head snapshot
	if err := json.Unmarshal(m.Data, &head); err != nil {
		return err
	}
	entry, err := z.Create(stream + ".json")
	if err != nil {
		return err
	}
	if err := json.NewEncoder(entry).Encode(head); err != nil {
		return err
	}
	if entry, err = z.CreateHeader(&zip.FileHeader{Name: stream + ".snapshot", Method: zip.Store}); err != nil { // it is compressed
		return err
	}
	for {
		chunk, err := next(ctx, sub)
		if err != nil {
			return err
		}
		if len(chunk.Data) == 0 {
			if status := chunk.Header.Get("Status"); status != "" && status != "204" {
				return fmt.Errorf("JetStream says %s %s", status, chunk.Header.Get("Description"))
			}
			return nil
		}
		if _, err := entry.Write(chunk.Data); err != nil {
			return err
		}
		if chunk.Reply != "" {
			if err := chunk.Respond(nil); err != nil {
				return err
			}
		}
	}
}

func next(ctx context.Context, sub *nats.Subscription) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, snapshotIdle)
	defer cancel()
	return sub.NextMsgWithContext(ctx)
}

// Restore makes the data directory dir, which must be empty or absent, of a
// Backup. The server that uses it next begins a new incarnation of the queues.
func Restore(ctx context.Context, file, dir string, log *slog.Logger) error {
	if all, err := os.ReadDir(dir); err == nil && len(all) > 0 {
		return &StartError{fmt.Errorf("the data directory %s is not empty", dir), "move it away, or name another one with --data"}
	}
	z, err := zip.OpenReader(file)
	if err != nil {
		return &StartError{fmt.Errorf("%s: %w", file, err), "name a file that atls-ws backup has written"}
	}
	defer func() { _ = z.Close() }()
	if z.Comment != backupFormat {
		return &StartError{fmt.Errorf("%s is no backup of this version: its format is %q", file, z.Comment), "name a file that atls-ws backup has written, or use the version that did"}
	}
	s, err := openStore(&Config{Dir: dir, Logger: log})
	if err != nil {
		return err
	}
	defer s.close()
	for _, stream := range keptStreams {
		if err := s.restore(ctx, &z.Reader, stream); err != nil {
			return &StartError{fmt.Errorf("%s: %s: %w", file, stream, err), "the file is damaged: use another, and remove " + dir}
		}
	}
	return nil
}

func (s *store) restore(ctx context.Context, z *zip.Reader, stream string) error {
	head, err := z.Open(stream + ".json")
	if err != nil {
		return err
	}
	request, err := io.ReadAll(head)
	if err = errors.Join(err, head.Close()); err != nil {
		return err
	}
	m, err := s.nc.RequestWithContext(ctx, "$JS.API.STREAM.RESTORE."+stream, request)
	if err != nil {
		return err
	}
	if err := apiError(m); err != nil {
		return err
	}
	var answer struct {
		Subject string `json:"deliver_subject"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return err
	}
	data, err := z.Open(stream + ".snapshot")
	if err != nil {
		return err
	}
	defer func() { _ = data.Close() }()
	buf := make([]byte, snapshotChunk)
	for {
		n, err := io.ReadFull(data, buf)
		if n > 0 {
			if m, err := s.request(ctx, answer.Subject, buf[:n]); err != nil {
				return err
			} else if err := apiError(m); len(m.Data) > 0 && err != nil {
				return err
			}
		}
		switch {
		case err == nil:
			continue
		case !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
			return err
		}
		m, err := s.request(ctx, answer.Subject, nil) // the end
		if err != nil {
			return err
		}
		return apiError(m)
	}
}

func (s *store) request(ctx context.Context, subject string, data []byte) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, snapshotIdle)
	defer cancel()
	return s.nc.RequestWithContext(ctx, subject, data)
}

// CheckBackup says whether the file is a whole backup.
func CheckBackup(file string) error {
	z, err := zip.OpenReader(file)
	if err != nil {
		return err
	}
	defer func() { _ = z.Close() }()
	for _, stream := range keptStreams {
		f, err := z.Open(stream + ".snapshot")
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, f) // the sum at its end
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("%s: %w", stream, err)
		}
	}
	return nil
}
