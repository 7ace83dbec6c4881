package admin

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"
)

// DeviceDetail is what is known of one device, connected or not.
type DeviceDetail struct {
	Device    string      `json:"device"`
	Connected bool        `json:"connected"`
	LastSeen  time.Time   `json:"last_seen,omitzero"` // now while it is connected
	Carrier   string      `json:"carrier,omitempty"`  // the latest
	Software  string      `json:"software,omitempty"` // the latest
	Groups    []string    `json:"groups"`
	Waiting   int         `json:"waiting"` // signals in its queue
	Denied    *Denial     `json:"denied,omitempty"`
	Counts    OuterCounts `json:"outer_counts"`
	Session   *Device     `json:"session,omitempty"` // of one that is connected
}

// Denial is a device that gets no session, and why.
type Denial struct {
	Device string    `json:"device"` // or a pattern or @group of the configuration
	Reason string    `json:"reason,omitempty"`
	By     string    `json:"by,omitempty"` // the operator
	Since  time.Time `json:"since,omitzero"`
	Rule   string    `json:"rule,omitempty"` // of the configuration that says so
}

// Group is a group of devices.
type Group struct {
	Name      string   `json:"group"`
	Devices   []string `json:"devices"`   // that the configuration names: ids and patterns
	OU        []string `json:"ou"`        // organizational units that it names
	Count     int      `json:"count"`     // members that are known
	Connected int      `json:"connected"` // of them
}

// GroupDetail is a group with its members.
type GroupDetail struct {
	Group
	Members []Member `json:"members"`
}

// Member is a device of a group.
type Member struct {
	Device    string `json:"device"`
	Connected bool   `json:"connected"`
}

// Disconnected says how many sessions of a device were ended.
type Disconnected struct {
	Device   string `json:"device"`
	Sessions int    `json:"sessions"`
}

// MaxReason is the limit of the text of a denial or a disconnection, in bytes.
const MaxReason = 1 << 10

// Device tells what is known of a device, connected or not.
func (c *Client) Device(ctx context.Context, device string) (*DeviceDetail, error) {
	var d DeviceDetail
	if err := c.call(ctx, http.MethodGet, devicePath(device), "", nil, &d); err != nil {
		return nil, err
	}
	return &d, nil
}

// Disconnect ends the sessions of a device, which is told the text; it comes back
// by itself.
func (c *Client) Disconnect(ctx context.Context, device, text string) (*Disconnected, error) {
	var d Disconnected
	body, _ := json.Marshal(map[string]string{"text": text})
	if err := c.call(ctx, http.MethodPost, devicePath(device)+"/disconnect", "application/json", body, &d); err != nil {
		return nil, err
	}
	return &d, nil
}

// Denials lists the devices that are denied.
func (c *Client) Denials(ctx context.Context) (all []Denial, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/deny", "", nil, &all)
	return all, err
}

// Deny keeps a device away and ends its sessions. The reason is for operators:
// the device does not hear it.
func (c *Client) Deny(ctx context.Context, device, reason string) (*Denial, error) {
	var d Denial
	body, _ := json.Marshal(map[string]string{"reason": reason})
	if err := c.call(ctx, http.MethodPut, "/v1/deny/"+url.PathEscape(device), "application/json", body, &d); err != nil {
		return nil, err
	}
	return &d, nil
}

// Allow takes a denial back, and returns what it was.
func (c *Client) Allow(ctx context.Context, device string) (*Denial, error) {
	var d Denial
	if err := c.call(ctx, http.MethodDelete, "/v1/deny/"+url.PathEscape(device), "", nil, &d); err != nil {
		return nil, err
	}
	return &d, nil
}

// Groups lists the groups of devices.
func (c *Client) Groups(ctx context.Context) (all []Group, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/groups", "", nil, &all)
	return all, err
}

// Group tells who is in a group.
func (c *Client) Group(ctx context.Context, group string) (*GroupDetail, error) {
	var g GroupDetail
	if err := c.call(ctx, http.MethodGet, "/v1/groups/"+url.PathEscape(group), "", nil, &g); err != nil {
		return nil, err
	}
	return &g, nil
}
