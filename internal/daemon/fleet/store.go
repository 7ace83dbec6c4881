package fleet

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	nats_server "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/atls-ws/atls-ws/internal/statedir"
)

const (
	apiTimeout     = 5 * time.Second
	leaderTimeout  = 30 * time.Second // for a cluster to elect its leaders
	publishTimeout = 10 * time.Second
	clusterTimeout = 4 * time.Second // the same where a leader can die: what it had taken gets no answer
	publishAhead   = 4096            // publishes without an ack
	reserve        = 32 << 20
	format         = 1               // of the data directory
	startTime      = 2 * time.Minute // for the embedded store to be read
)

// store is JetStream, embedded or elsewhere: one code path above the
// connection.
type store struct {
	nc  *nats.Conn
	js  jetstream.JetStream
	log *slog.Logger

	where     string // for messages: a directory or a URL
	clustered bool   // embedded, with other nodes
	embedded  *nats_server.Server
	dir       string // of the embedded server
	lock      *os.File
	reserve   uint64   // bytes of the disk that new signals leave free
	onDisk    []string // streams that were there before
	natsLog   *natsLog
}

func openStore(c *Config) (*store, error) {
	s := &store{log: c.Logger, reserve: reserve}
	var err error
	if c.NATS.URL == "" {
		err = s.embed(c)
	} else {
		err = s.dial(c)
	}
	async := publishTimeout
	if c.Node != nil {
		async = clusterTimeout
	}
	if err == nil {
		s.js, err = jetstream.New(s.nc, jetstream.WithPublishAsyncMaxPending(publishAhead), jetstream.WithPublishAsyncTimeout(async), jetstream.WithDefaultTimeout(apiTimeout))
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// embed starts a server in this process that listens nowhere.
func (s *store) embed(c *Config) (err error) {
	if c.Dir == "" {
		return errors.New("fleet: no data directory")
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return dirError(c.Dir, err)
	}
	s.dir, s.where = c.Dir, c.Dir
	if s.lock, err = lock(c.Dir); err != nil {
		return err
	}
	if _, err := statedir.Check(c.Dir, format); err != nil {
		if newer := (*statedir.NewerError)(nil); errors.As(err, &newer) {
			return &StartError{err, newer.Next()}
		}
		return dirError(c.Dir, err)
	}
	s.natsLog = &natsLog{log: c.Logger}
	s.onDisk = streamsOnDisk(c.Dir)
	o := &nats_server.Options{
		ServerName: "atls-ws", DontListen: true, JetStream: true, StoreDir: filepath.Join(c.Dir, "nats"),
		SyncAlways: true, NoSigs: true,
		// Each stream has a bound of its own; a bound here would refuse the streams.
		JetStreamMaxStore: math.MaxInt64 / 2, JetStreamMaxMemory: 64 << 20,
	}
	opts := []nats.Option{nats.Name("atls-ws"), nats.MaxReconnects(-1), nats.ReconnectBufSize(-1), nats.ErrorHandler(s.asyncError)}
	if c.NATS.Cluster.Listen != "" {
		secret, err := join(o, c)
		if err != nil {
			return err
		}
		s.clustered = true
		opts = append(opts, secret)
	}
	s.embedded, err = nats_server.NewServer(o)
	if err != nil {
		return dirError(c.Dir, err)
	}
	s.embedded.SetLoggerV2(s.natsLog, false, false, false)
	s.embedded.Start() // reads the store
	if !s.embedded.ReadyForConnections(startTime) || !s.embedded.JetStreamEnabled() {
		return corrupt(c.Dir, errors.New(s.natsLog.reason("the store does not start")))
	}
	if s.nc, err = nats.Connect("", append(opts, nats.InProcessServer(s.embedded))...); err != nil {
		return fmt.Errorf("fleet: %w", err)
	}
	return nil
}

// streamsOnDisk are the streams of ours that the store of dir has.
func streamsOnDisk(dir string) (names []string) {
	for _, name := range streamNames {
		if _, err := os.Stat(filepath.Join(dir, "nats", "jetstream", "$G", "streams", name)); err == nil {
			names = append(names, name)
		}
	}
	return names
}

// dial connects to a server elsewhere.
func (s *store) dial(c *Config) (err error) {
	s.where = "nats at " + withoutPassword(c.NATS.URL)
	o := []nats.Option{
		nats.Name("atls-ws"), nats.MaxReconnects(-1), nats.ReconnectWait(500 * time.Millisecond), nats.ReconnectJitter(500*time.Millisecond, 500*time.Millisecond),
		// Nothing is buffered while the connection is away: what is told to a sender is true.
		nats.ReconnectBufSize(-1),
		nats.ErrorHandler(s.asyncError),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				s.log.Warn("nats is gone, signals wait", "err", err)
			}
		}),
	}
	if c.NATS.Credentials != "" {
		o = append(o, nats.UserCredentials(c.NATS.Credentials))
	}
	if c.NATS.CA != "" {
		pem, err := os.ReadFile(c.NATS.CA)
		roots := x509.NewCertPool()
		if err == nil && !roots.AppendCertsFromPEM(pem) {
			err = errors.New("no certificate in it")
		}
		if err != nil {
			return &StartError{fmt.Errorf("nats.ca: %s: %w", c.NATS.CA, err), "name a PEM file with the authority of the NATS server"}
		}
		o = append(o, nats.Secure(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}))
	}
	if s.nc, err = nats.Connect(c.NATS.URL, o...); err != nil {
		return &StartError{fmt.Errorf("%s: %w", s.where, err), "check nats.url, nats.credentials and nats.ca, and that the server runs: nats-server -js"}
	}
	return nil
}

// withoutPassword leaves out what stands before an @.
func withoutPassword(urls string) string {
	all := strings.Split(urls, ",")
	for i, u := range all {
		if at := strings.LastIndexByte(u, '@'); at >= 0 {
			all[i] = u[:strings.Index(u, "//")+2] + u[at+1:]
		}
	}
	return strings.Join(all, ",")
}

func (s *store) asyncError(_ *nats.Conn, _ *nats.Subscription, err error) {
	s.log.Warn("nats", "err", err)
}

// room refuses new signals before the disk is full: JetStream stops for good
// when it meets a full disk, and answers could not be stored any more.
func (s *store) room() error {
	if s.embedded == nil {
		return nil
	}
	if why := s.natsLog.stopped(); why != "" || !s.embedded.JetStreamEnabled() {
		return &UnavailableError{fmt.Errorf("the store in %s has stopped: %s", s.dir, cmp.Or(why, "JetStream is off")), "make room, or mend the disk, and start the server again: what was queued is there"}
	}
	left, err := free(s.dir)
	if err == nil && left < s.reserve {
		return &UnavailableError{fmt.Errorf("the disk of %s is nearly full: %d MiB are left, %d are kept for answers", s.dir, left>>20, s.reserve>>20),
			"make room on it; signals are taken again at once"}
	}
	return nil
}

func (s *store) close() {
	if s.nc != nil {
		s.nc.Close()
	}
	if s.embedded != nil {
		s.embedded.Shutdown()
		s.embedded.WaitForShutdown()
	}
	if s.lock != nil {
		_ = s.lock.Close()
	}
}

func dirError(dir string, err error) error {
	return &StartError{fmt.Errorf("the data directory %s: %w", dir, reason(err)), "name a directory that this user can write to with --data"}
}

func corrupt(dir string, err error) error {
	return &StartError{fmt.Errorf("the store in %s is damaged: %w", dir, err),
		"restore the directory from a backup, or move it away to start with empty queues: signals that wait in it are lost then"}
}

// reason strips the path, which the message names.
func reason(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// natsLog passes the embedded server's log on, and keeps the last complaints.
type natsLog struct {
	log  *slog.Logger
	mu   sync.Mutex
	last []string
	stop string // why a stream takes nothing more
}

func (l *natsLog) keep(format string, v []any) string {
	text := fmt.Sprintf(format, v...)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stop == "" && strings.Contains(text, "ritical write error") {
		l.stop = text
	}
	l.last = append(l.last, text)
	if len(l.last) > 3 {
		l.last = l.last[1:]
	}
	return text
}

func (l *natsLog) stopped() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stop
}

func (l *natsLog) reason(otherwise string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.last) == 0 {
		return otherwise
	}
	return strings.Join(l.last, "; ")
}

func (l *natsLog) Noticef(format string, v ...any) {
	l.log.Debug("nats", "text", fmt.Sprintf(format, v...))
}
func (l *natsLog) Warnf(format string, v ...any)  { l.log.Warn("nats", "text", l.keep(format, v)) }
func (l *natsLog) Errorf(format string, v ...any) { l.log.Error("nats", "text", l.keep(format, v)) }
func (l *natsLog) Fatalf(format string, v ...any) { l.log.Error("nats", "text", l.keep(format, v)) }
func (l *natsLog) Debugf(string, ...any)          {}
func (l *natsLog) Tracef(string, ...any)          {}
