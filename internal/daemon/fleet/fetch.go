package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// fetchBytes is about how much one answer brings.
const fetchBytes = 512 << 10

// fetch reads up to n messages of a stream in order, by subject, from a
// sequence on: a direct get, without a consumer, which any replica may answer.
func (s *store) fetch(ctx context.Context, stream, subject string, from uint64, n int) ([]*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	inbox := s.nc.NewRespInbox()
	n = max(n, 2)
	answers := make(chan *nats.Msg, n+1) // all of them and the end: a channel of nats.go's own takes 4 MB
	sub, err := s.nc.ChanSubscribe(inbox, answers)
	if err != nil {
		return nil, s.unavailable(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	request, _ := json.Marshal(map[string]any{"seq": max(from, 1), "next_by_subj": subject, "batch": n, "max_bytes": fetchBytes})
	if err := s.nc.PublishRequest("$JS.API.DIRECT.GET."+stream, inbox, request); err != nil {
		return nil, s.unavailable(err)
	}
	var all []*nats.Msg
	for {
		var m *nats.Msg
		select {
		case m = <-answers:
		case <-ctx.Done():
			return nil, s.unavailable(ctx.Err())
		}
		switch m.Header.Get("Status") {
		case "":
			m.Subject = m.Header.Get("Nats-Subject")
			all = append(all, m)
		case "204", "404":
			return all, nil
		case "503":
			return nil, s.unavailable(nats.ErrNoResponders)
		default:
			return nil, fmt.Errorf("%s: %s: %s", s.where, stream, m.Header.Get("Description"))
		}
	}
}

// last reads the last message of a subject; nil when there is none.
func (s *store) last(ctx context.Context, stream, subject string) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	m, err := s.nc.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+stream+"."+subject, nil)
	switch {
	case err != nil:
		return nil, s.unavailable(err)
	case m.Header.Get("Status") == "404":
		return nil, nil
	}
	return m, nil
}

// walk calls fn with every message of the subject, from a sequence on, until fn
// says no.
func (s *store) walk(ctx context.Context, stream, subject string, from uint64, fn func(*nats.Msg) bool) error {
	for {
		all, err := s.fetch(ctx, stream, subject, from, 500)
		if err != nil {
			return err
		}
		for _, m := range all {
			if !fn(m) {
				return nil
			}
			from = sequence(m) + 1
		}
		if len(all) == 0 {
			return nil
		}
	}
}

// sequence is the place of a message in its stream.
func sequence(m *nats.Msg) uint64 {
	n, _ := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
	return n
}

// UnavailableError says that the store cannot do it now.
type UnavailableError struct {
	Err  error
	next string
}

// Unavailable makes one, with what to do about it.
func Unavailable(err error, next string) error { return &UnavailableError{err, next} }

// Error gives the reason.
func (e *UnavailableError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *UnavailableError) Unwrap() error { return e.Err }

// Next says what to do about it.
func (e *UnavailableError) Next() string { return e.next }

func (s *store) unavailable(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	if r := s.room(); r != nil {
		return r
	}
	return &UnavailableError{fmt.Errorf("%s does not answer: %w", s.where, err), "see that NATS runs and has a leader, then try again with the same --id"}
}

// apiError is the error in an answer of the JetStream API, if there is one.
func apiError(m *nats.Msg) error {
	var answer struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return fmt.Errorf("answer of JetStream: %w", err)
	}
	if answer.Error != nil {
		return answer.Error
	}
	return nil
}
