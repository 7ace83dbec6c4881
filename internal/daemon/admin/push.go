package admin

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Push is a signal to send and whom to.
type Push struct {
	Device      string // or Group; with neither, all devices
	Group       string
	Name        string
	ContentType string
	Data        []byte
	// ID of the signal, 32 hex digits; empty makes one. A device handles one signal
	// of an id, however often it is pushed.
	ID     string
	TTL    time.Duration // 0: the server's
	NoWait bool          // return when the signal is queued
	// Timeout bounds the wait for answers; 0 is DefaultTimeout.
	Timeout time.Duration
}

// BrokenError says that the daemon went away in the middle of a request.
type BrokenError struct{ Err error }

// Error says so.
func (e *BrokenError) Error() string {
	return "the server went away before it answered: whether the signal is queued is not known"
}

// Unwrap returns Err.
func (e *BrokenError) Unwrap() error { return e.Err }

// query is the request's; it gives the push an ID, which the caller needs when the
// answer is lost.
func (p *Push) query() url.Values {
	q := url.Values{"name": {p.Name}}
	if p.ID == "" {
		id := NewID()
		p.ID = hex.EncodeToString(id[:])
		q.Set("fresh", "true")
	}
	q.Set("id", p.ID)
	if p.TTL > 0 {
		q.Set("ttl", p.TTL.String())
	}
	if p.Timeout <= 0 {
		p.Timeout = DefaultTimeout
	}
	q.Set("timeout", p.Timeout.String())
	if p.NoWait {
		q.Set("wait", "false")
	}
	return q
}

// Push sends to p.Device and returns what became of the signal until now: any
// state of a signal is no error. It sets p.ID.
func (c *Client) Push(ctx context.Context, p *Push) (*Outcome, error) {
	query := p.query()
	ctx, cancel := context.WithTimeout(ctx, p.Timeout+grace)
	defer cancel()
	resp, err := c.post(ctx, devicePath(p.Device)+"/signals?"+query.Encode(), p)
	if err != nil {
		return nil, err
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusAccepted, http.StatusConflict, http.StatusGone, http.StatusInsufficientStorage:
		resp.StatusCode = http.StatusOK // each is an outcome
	}
	var o Outcome
	if err := decode(resp, &o); err != nil {
		return nil, err
	}
	return &o, nil
}

// PushMany sends to p.Group, or to all devices, and calls each for every change
// of a device's outcome. It returns when every connected device has answered, or
// the time is over. It sets p.ID.
func (c *Client) PushMany(ctx context.Context, p *Push, each func(Outcome)) (*Summary, error) {
	query := p.query()
	if p.Group != "" {
		query.Set("group", p.Group)
	} else {
		query.Set("all", "true")
	}
	resp, err := c.post(ctx, "/v1/signals?"+query.Encode(), p)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, decode(resp, nil)
	}
	defer func() { _ = resp.Body.Close() }()
	lines := json.NewDecoder(bufio.NewReader(resp.Body))
	for {
		var line Progress
		if err := lines.Decode(&line); err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, &BrokenError{err}
		}
		if line.Outcome != nil {
			each(*line.Outcome)
		}
		if line.Summary != nil {
			return line.Summary, nil
		}
	}
}

func (c *Client) post(ctx context.Context, path string, p *Push) (*http.Response, error) {
	h := http.Header{}
	if p.ContentType != "" {
		h.Set("Content-Type", p.ContentType)
	}
	return c.do(ctx, &http.Transport{DisableKeepAlives: true, DialContext: c.dialSocket}, http.MethodPost, path, h, p.Data)
}

// Signals lists the latest sends, newest first.
func (c *Client) Signals(ctx context.Context, limit int) (all []Signal, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/signals?limit="+strconv.Itoa(limit), "", nil, &all)
	return all, err
}

// Signal tells what became of a signal at each of its devices.
func (c *Client) Signal(ctx context.Context, id string) (*Signal, error) {
	var s Signal
	if err := c.call(ctx, http.MethodGet, "/v1/signals/"+url.PathEscape(id), "", nil, &s); err != nil {
		return nil, err
	}
	return &s, nil
}

// Cancel takes a signal back where it still waits, at one device or at all, and
// returns what it is at each.
func (c *Client) Cancel(ctx context.Context, id, device string) (all []Outcome, err error) {
	path := "/v1/signals/" + url.PathEscape(id)
	if device != "" {
		path += "?device=" + url.QueryEscape(device)
	}
	err = c.call(ctx, http.MethodDelete, path, "", nil, &all)
	return all, err
}

// Queue lists the signals that wait for a device, in order.
func (c *Client) Queue(ctx context.Context, device string) (all []QueuedSignal, err error) {
	err = c.call(ctx, http.MethodGet, devicePath(device)+"/signals", "", nil, &all)
	return all, err
}

// String is the outcome in words.
func (o *Outcome) String() string {
	s := o.State
	if o.Code != "" && o.Code != o.State {
		s += " (" + o.Code + ")"
	}
	if o.Text != "" {
		s += ": " + o.Text
	}
	return s
}
