package daemon

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/daemon/fleet"
)

const (
	neverSeen = "the device has never been connected here; it gets the signal when it connects"
	maxListed = 1000
)

// pushRequest is what a request to send says beside its target.
type pushRequest struct {
	fleet.Request
	id      [16]byte
	wait    bool
	timeout time.Duration
}

// pushOptions reads the parameters of a request to send.
func pushOptions(q url.Values) (*pushRequest, error) {
	p := &pushRequest{wait: q.Get("wait") != "false", timeout: admin.DefaultTimeout}
	p.ID = &p.id
	for key, v := range map[string]*time.Duration{"timeout": &p.timeout, "ttl": &p.TTL} {
		if text := q.Get(key); text != "" {
			d, err := time.ParseDuration(text)
			if err != nil || d <= 0 || key == "timeout" && d > admin.MaxTimeout {
				return nil, errors.New(key + ": want a duration such as 30s")
			}
			*v = d
		}
	}
	return p, nil
}

// readPush reads the request, or answers it.
func readPush(w http.ResponseWriter, r *http.Request) (*pushRequest, bool) {
	q := r.URL.Query()
	bad := func(text string) (*pushRequest, bool) {
		fail(w, http.StatusBadRequest, text)
		return nil, false
	}
	p, err := pushOptions(q)
	if err != nil {
		return bad(err.Error())
	}
	if text := q.Get("id"); text == "" {
		p.id, p.Fresh = admin.NewID(), true
	} else if b, err := hex.DecodeString(text); err != nil || len(b) != len(p.id) {
		return bad("id: want 32 hex digits")
	} else {
		copy(p.id[:], b)
		p.Fresh = q.Get("fresh") == "true"
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, admin.MaxData))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		fail(w, http.StatusRequestEntityTooLarge, "a signal's data is at most 64 KiB")
		return nil, false
	} else if err != nil {
		return bad(err.Error())
	}
	p.Name, p.ContentType, p.Data = q.Get("name"), r.Header.Get("Content-Type"), data
	return p, true
}

// push sends to one device and answers with what became of it by then.
func (a *api) push(w http.ResponseWriter, r *http.Request) {
	p, ok := readPush(w, r)
	if !ok {
		return
	}
	p.Target.Device = r.PathValue("id")
	a.pushOne(w, r, p)
}

func (a *api) pushOne(w http.ResponseWriter, r *http.Request, p *pushRequest) {
	ctx, cancel := context.WithTimeout(r.Context(), p.timeout)
	defer cancel()
	answered := make(chan admin.Outcome, 1)
	if p.wait {
		stop, err := a.fleet.Watch(hex.EncodeToString(p.id[:]), func(o admin.Outcome) {
			select {
			case answered <- o:
			default:
			}
		})
		if err != nil {
			replyError(w, err)
			return
		}
		defer stop()
	}
	var o admin.Outcome
	id, err := a.fleet.Send(r.Context(), &p.Request, func(sent admin.Outcome) { o = sent })
	if err != nil {
		replyError(w, err)
		return
	}
	device := p.Target.Device
	switch {
	case o.Final():
	case !a.fleet.Online(device):
		o.Text = admin.OfflineText
		if seen, err := a.fleet.Seen(r.Context(), device); err == nil && !seen {
			o.Text = neverSeen
		}
	case p.wait:
		select {
		case o = <-answered:
		case <-ctx.Done():
			o = a.unanswered(r.Context(), id, o, p.timeout)
		}
	}
	reply(w, stateCode(o.State), o)
}

// unanswered is what can be said of a signal whose wait is over.
func (a *api) unanswered(ctx context.Context, id string, o admin.Outcome, waited time.Duration) admin.Outcome {
	if s, err := a.fleet.Show(ctx, id); err == nil && len(s.Outcomes) > 0 {
		o = s.Outcomes[0]
	}
	if !o.Final() && o.Text == "" {
		o.Text = fmt.Sprintf("no answer within %s", waited)
	}
	return o
}

func stateCode(state string) int {
	switch state {
	case admin.Acked:
		return http.StatusOK
	case admin.Queued, admin.Delivered:
		return http.StatusAccepted
	case admin.Refused:
		return http.StatusConflict
	case admin.Failed:
		return http.StatusInsufficientStorage
	}
	return http.StatusGone
}

// pushMany sends to a group or to all devices, and streams what becomes of it:
// a line when it is queued for a device and one when a device has answered.
func (a *api) pushMany(w http.ResponseWriter, r *http.Request) {
	group, all := r.URL.Query().Get("group"), r.URL.Query().Get("all") == "true"
	if (group == "") != all {
		fail(w, http.StatusBadRequest, "want either group=NAME or all=true")
		return
	}
	p, ok := readPush(w, r)
	if !ok {
		return
	}
	p.Target.Group = group
	a.pushTo(w, r, p)
}

func (a *api) pushTo(w http.ResponseWriter, r *http.Request, p *pushRequest) {
	id := hex.EncodeToString(p.id[:])
	f := &fanOut{w: w, enc: json.NewEncoder(w), outcomes: map[string]admin.Outcome{}, awaited: map[string]bool{}, changed: make(chan struct{}, 1)}
	stop, err := a.fleet.Watch(id, f.answered)
	if err != nil {
		replyError(w, err)
		return
	}
	defer stop()
	_, err = a.fleet.Send(r.Context(), &p.Request, func(o admin.Outcome) {
		online := a.fleet.Online(o.Device)
		if o.State == admin.Queued && !online {
			o.Text = admin.OfflineText
		}
		f.queued(o, online)
	})
	if err != nil && !f.began() { // nothing is sent: an ordinary error
		replyError(w, err)
		return
	}
	if err == nil && p.wait {
		f.await(r.Context(), p.timeout)
	}
	f.finish(id, err)
}

// fanOut is the answer to a pushMany while it is written.
type fanOut struct {
	w       http.ResponseWriter
	enc     *json.Encoder // the handler's goroutine alone
	started bool
	flushed time.Time

	mu       sync.Mutex
	outcomes map[string]admin.Outcome
	awaited  map[string]bool // online devices that have not answered
	news     []admin.Outcome
	changed  chan struct{}
}

func (f *fanOut) began() bool { return f.started }

// queued is called from Send, in the handler's goroutine.
func (f *fanOut) queued(o admin.Outcome, online bool) {
	f.mu.Lock()
	if was, ok := f.outcomes[o.Device]; !ok || !was.Final() { // not answered already
		f.outcomes[o.Device] = o
		if online && !o.Final() {
			f.awaited[o.Device] = true
		}
	}
	f.mu.Unlock()
	f.line(&admin.Progress{Outcome: &o})
}

// answered is called from Watch.
func (f *fanOut) answered(o admin.Outcome) {
	f.mu.Lock()
	f.outcomes[o.Device] = o
	delete(f.awaited, o.Device)
	f.news = append(f.news, o)
	f.mu.Unlock()
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

func (f *fanOut) line(p *admin.Progress) {
	if !f.started {
		f.w.Header().Set("Content-Type", "application/x-ndjson")
		f.w.Header().Set("Cache-Control", "no-store")
		f.started = true
	}
	_ = f.enc.Encode(p) // an error means that nobody reads it
	if time.Since(f.flushed) > 100*time.Millisecond {
		_ = http.NewResponseController(f.w).Flush()
		f.flushed = time.Now()
	}
}

// await writes the answers until all connected devices have given theirs.
func (f *fanOut) await(ctx context.Context, timeout time.Duration) {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for {
		f.mu.Lock()
		news, left := f.news, len(f.awaited)
		f.news = nil
		f.mu.Unlock()
		for i := range news {
			f.line(&admin.Progress{Outcome: &news[i]})
		}
		if left == 0 {
			return
		}
		_ = http.NewResponseController(f.w).Flush()
		select {
		case <-f.changed:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (f *fanOut) finish(id string, err error) {
	f.mu.Lock()
	s := &admin.Summary{ID: id, Devices: len(f.outcomes), Counts: map[string]int{}}
	for _, o := range f.outcomes {
		s.Counts[o.State]++
	}
	f.mu.Unlock()
	if err != nil {
		s.Error, s.Next = err.Error(), nextStep(err)
	}
	f.line(&admin.Progress{Summary: s})
}

func (a *api) signals(w http.ResponseWriter, r *http.Request) {
	n := 50
	if text := r.URL.Query().Get("limit"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil || n < 1 || n > maxListed {
			fail(w, http.StatusBadRequest, fmt.Sprintf("limit: want 1 to %d", maxListed))
			return
		}
	}
	all, err := a.fleet.List(r.Context(), n)
	replyOr(w, all, err)
}

func (a *api) signal(w http.ResponseWriter, r *http.Request) {
	s, err := a.fleet.Show(r.Context(), r.PathValue("id"))
	replyOr(w, s, err)
}

func (a *api) cancelSignal(w http.ResponseWriter, r *http.Request) {
	all, err := a.fleet.Cancel(r.Context(), r.PathValue("id"), r.URL.Query().Get("device"))
	replyOr(w, all, err)
}

func (a *api) queue(w http.ResponseWriter, r *http.Request) {
	all, err := a.fleet.Waiting(r.Context(), r.PathValue("id"))
	replyOr(w, all, err)
}

func replyOr(w http.ResponseWriter, v any, err error) {
	if err != nil {
		replyError(w, err)
		return
	}
	reply(w, http.StatusOK, v)
}

func nextStep(err error) string {
	if step := (interface{ Next() string })(nil); errors.As(err, &step) {
		return step.Next()
	}
	return ""
}
