package admin

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
)

// Health.Status.
const (
	HealthOK     = "ok"
	HealthFailed = "failed"
)

// Health is the answer of /healthz and /readyz.
type Health struct {
	Status string  `json:"status"` // HealthOK or HealthFailed
	Checks []Check `json:"checks"`
}

// Check is one thing that must be so.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Reason string `json:"reason,omitempty"`
	Next   string `json:"next,omitempty"`
}

// Add enters a check; one that is not OK decides.
func (h *Health) Add(c Check) {
	h.Checks = append(h.Checks, c)
	if !c.OK {
		h.Status = HealthFailed
	}
}

// Alive asks whether the process is of use at all. It is for the socket alone, and
// so is Ready.
func (c *Client) Alive(ctx context.Context) (*Health, error) { return c.health(ctx, "/healthz") }

// Ready asks whether devices and signals are taken just now.
func (c *Client) Ready(ctx context.Context) (*Health, error) { return c.health(ctx, "/readyz") }

func (c *Client) health(ctx context.Context, path string) (*Health, error) {
	resp, err := c.do(ctx, &http.Transport{DisableKeepAlives: true, DialContext: c.connect}, http.MethodGet, path, http.Header{}, nil)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusServiceUnavailable {
		h := &Health{}
		return h, decode(resp, h)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	h := &Health{}
	return h, json.Unmarshal(body, h)
}
