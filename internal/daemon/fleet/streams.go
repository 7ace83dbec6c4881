package fleet

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The streams. Each has its bound: in number, bytes or age.
const (
	signalStream  = "SIGNALS"
	sendStream    = "SENDS"
	outcomeStream = "OUTCOMES"
	deviceStream  = "DEVICES"
	cloudStream   = "CLOUD"
	denialStream  = "DENIALS"

	// Of a fleet with several nodes.
	presenceStream = "PRESENCE"
	nodeStream     = "NODES"
)

// keptStreams are worth a backup: where devices are connected is not.
var keptStreams = []string{signalStream, sendStream, outcomeStream, deviceStream, cloudStream, denialStream}

var streamNames = append(slices.Clone(keptStreams), presenceStream)

const (
	dedupWindow = 2 * time.Minute
	tryTime     = 2 * time.Second // without a leader a request gets no answer, also after there is one
	recordBytes = 2 << 30         // of SENDS, of OUTCOMES and of DEVICES at most
	queueKey    = "atls-ws-queue"
)

func streamConfigs(c *Config) []jetstream.StreamConfig {
	base := func(name, subjects string, age time.Duration, bytes int64) jetstream.StreamConfig {
		return jetstream.StreamConfig{
			Name: name, Subjects: []string{subjects}, Storage: jetstream.FileStorage, Retention: jetstream.LimitsPolicy, Replicas: c.NATS.Replicas,
			AllowDirect: true, MaxAge: age, MaxBytes: bytes, MaxConsumers: 16, Duplicates: min(dedupWindow, orDefault(age, dedupWindow)),
		}
	}
	signals := base(signalStream, signalSubject+".*", c.MaxAge, c.MaxBytes)
	signals.Description = "queues of signals, a subject per device"
	// The stream refuses what is over, whatever the policy: the oldest is dropped
	// by us, after it has been noted that it is.
	signals.Discard, signals.DiscardNewPerSubject, signals.MaxMsgsPerSubject = jetstream.DiscardNew, true, int64(c.PerDevice)
	signals.AllowMsgTTL = true
	signals.RePublish = &jetstream.RePublish{Source: signalSubject + ".*", Destination: bellSubject + ".{{wildcard(1)}}", HeadersOnly: true}

	sends := base(sendStream, sendSubject+".*.*", c.MaxAge+c.Outcomes, recordBytes)
	sends.Description, sends.MaxMsgsPerSubject = "to whom signals were sent", 1

	outcomes := base(outcomeStream, outSubject+".*.*", c.Outcomes, recordBytes)
	outcomes.Description, outcomes.MaxMsgsPerSubject = "what became of signals", 1
	outcomes.RePublish = &jetstream.RePublish{Source: outSubject + ".*.*", Destination: doneSubject + ".{{wildcard(1)}}.{{wildcard(2)}}"}

	devices := base(deviceStream, deviceSubject+".*", 0, recordBytes)
	devices.Description, devices.MaxMsgsPerSubject = "devices that were ever connected", 1

	cloud := base(cloudStream, cloudSubject+".*.*", c.CloudAge, c.CloudBytes)
	cloud.Description = "signals of devices"

	// What does not fit is refused: no denial makes room for another.
	denied := base(denialStream, denySubject+".*", 0, denialBytes)
	denied.Description, denied.MaxMsgsPerSubject, denied.Discard = "devices that were denied", 1, jetstream.DiscardNew
	denied.RePublish = &jetstream.RePublish{Source: denySubject + ".*", Destination: deniedSubject + ".{{wildcard(1)}}", HeadersOnly: true}
	all := []jetstream.StreamConfig{signals, sends, outcomes, devices, cloud, denied}
	if c.Node != nil {
		all = append(all, presenceStreams(base)...)
	}
	return all
}

// makeStreams makes the streams that are missing and brings the others to the
// configuration. It returns the incarnation of the queues: sequences of a
// stream that was made anew do not compare with those of the old one.
func (s *store) makeStreams(ctx context.Context, c *Config) (queue string, err error) {
	timeout := leaderTimeout
	if s.clustered {
		timeout = clusterStart
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for _, want := range streamConfigs(c) {
		st, err := s.makeStream(ctx, want)
		if err != nil {
			return "", err
		}
		info := st.CachedInfo()
		if lost := info.State.Lost; lost != nil && s.embedded != nil {
			return "", corrupt(s.dir, fmt.Errorf("%s has lost %d messages, %d bytes", want.Name, len(lost.Msgs), lost.Bytes))
		}
		if want.Name == signalStream {
			queue = info.Config.Metadata[queueKey]
		}
	}
	return queue, nil
}

// makeStream asks until a leader answers: before there is one, JetStream says
// nothing at all.
func (s *store) makeStream(ctx context.Context, want jetstream.StreamConfig) (st jetstream.Stream, err error) {
	began, said := time.Now(), false
	for {
		try, cancel := context.WithTimeout(ctx, tryTime)
		st, err = s.tryStream(try, want)
		cancel()
		if start := (*StartError)(nil); err == nil || errors.As(err, &start) {
			return st, err
		}
		if !waitsForLeader(err) {
			return nil, &StartError{fmt.Errorf("%s: stream %s: %w", s.where, want.Name, err), "the log of NATS says more; JetStream of NATS 2.12 or later is needed"}
		}
		if !said && time.Since(began) > 3*time.Second {
			said = true
			s.log.Info("waiting for JetStream: a cluster needs more than half of its nodes"+s.others(), "stream", want.Name, "err", err)
		}
		timer := time.NewTimer(200 * time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			next := "start nats-server with -js, and more than half of a cluster's servers"
			if s.clustered {
				next = "start more than half of the cluster's nodes, and check nats.cluster.routes" + s.others()
			}
			return nil, &StartError{fmt.Errorf("%s: JetStream does not answer: it is off, or the cluster has no leader: %w", s.where, err), next}
		}
	}
}

func waitsForLeader(err error) bool {
	var api *jetstream.APIError
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, jetstream.ErrJetStreamNotEnabled) ||
		errors.Is(err, nats.ErrReconnectBufExceeded) || errors.Is(err, jetstream.ErrNoStreamResponse) ||
		errors.Is(err, jetstream.ErrStreamNotFound) || // another node makes it just now
		errors.As(err, &api) && (api.Code == 503 || strings.Contains(api.Description, "no suitable peers"))
}

func (s *store) tryStream(ctx context.Context, want jetstream.StreamConfig) (jetstream.Stream, error) {
	st, err := s.js.Stream(ctx, want.Name)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		if slices.Contains(s.onDisk, want.Name) {
			// A stream that cannot be read is logged and left out. Made anew in its
			// place, its signals would be lost without a word.
			return nil, corrupt(s.dir, fmt.Errorf("%s cannot be read: %s", want.Name, s.natsLog.reason("no reason given")))
		}
		if want.Name == signalStream {
			want.Metadata = map[string]string{queueKey: rand.Text()}
		}
		if st, err = s.js.CreateStream(ctx, want); errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			return s.js.Stream(ctx, want.Name) // another node was quicker
		}
		return st, err
	case err != nil:
		return nil, err
	}
	have := st.CachedInfo()
	want.Metadata = have.Config.Metadata
	if want.Name == signalStream && want.Metadata[queueKey] == "" {
		return nil, fmt.Errorf("it is not one of atls-ws: its metadata has no %s", queueKey)
	}
	if same(have.Config, want) {
		return st, nil
	}
	return s.js.UpdateStream(ctx, want)
}

// same says whether what the configuration decides is as wanted.
func same(a, b jetstream.StreamConfig) bool {
	return a.MaxAge == b.MaxAge && a.MaxBytes == b.MaxBytes && a.MaxMsgsPerSubject == b.MaxMsgsPerSubject && a.Replicas == b.Replicas && a.Duplicates == b.Duplicates
}

// lastSeq is the sequence of the signal that was stored last, as the leader has it.
func (s *store) lastSeq(ctx context.Context) (uint64, error) { return s.lastOf(ctx, signalStream) }

// lastOf is that of any stream.
func (s *store) lastOf(ctx context.Context, stream string) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	st, err := s.js.Stream(ctx, stream)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", s.where, err)
	}
	return st.CachedInfo().State.LastSeq, nil
}
