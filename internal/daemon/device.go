package daemon

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/atls-ws/atls-ws/internal/daemon/access"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/daemon/fleet"
	"github.com/atls-ws/atls-ws/server"
)

// byeWithin bounds the telling of a device that it is disconnected.
const byeWithin = 3 * time.Second

// device tells what is known of one device, connected or not.
func (a *api) device(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	about, seen, err := a.fleet.About(r.Context(), id)
	if err != nil {
		replyError(w, err)
		return
	}
	d := admin.DeviceDetail{
		Device: id, LastSeen: about.LastSeen, Carrier: about.Carrier, Software: about.Software,
		Waiting: about.Waiting, Counts: a.outer.of(id),
	}
	ou := about.OU
	if s, ok := a.server.Registry().Get(id); ok {
		if certs := s.ConnectionState().PeerCertificates; len(certs) > 0 {
			ou = certs[0].Subject.OrganizationalUnit
		}
	}
	if now := a.session(r.Context(), id); now != nil {
		d.Connected, d.Session, d.LastSeen, d.Counts = true, now, time.Now().UTC(), now.Counts
		d.Carrier, d.Software = cmp.Or(now.Carrier, d.Carrier), cmp.Or(now.Software, d.Software)
	}
	d.Groups = a.guard.Groups().Of(id, ou)
	d.Denied = a.denied(access.Device{ID: id, OU: ou})
	if !seen && !d.Connected && d.Waiting == 0 && d.Denied == nil && len(d.Groups) == 0 {
		reply(w, http.StatusNotFound, admin.Outcome{State: admin.Unknown, Device: id, Text: "no such device: it was never connected here, and nothing waits for it"})
		return
	}
	reply(w, http.StatusOK, d)
}

// session is a device's newest session, at whatever node; nil: it has none.
func (a *api) session(ctx context.Context, id string) *admin.Device {
	there := a.reach.peers.session(ctx, id)
	if s, ok := a.server.Registry().Get(id); ok {
		if here := a.about(s); there == nil || here.Since.After(there.Since) {
			return &here
		}
	}
	return there
}

// disconnect ends a device's sessions, at whatever node; the device comes back by
// itself.
func (a *api) disconnect(w http.ResponseWriter, r *http.Request) {
	text, ok := readText(w, r)
	if !ok {
		return
	}
	id := r.PathValue("id")
	_, here := a.server.Registry().Get(id) // before it comes back, from elsewhere
	n, err := a.reach.peers.disconnect(r.Context(), id, text)
	if here {
		n += a.disconnectHere(r.Context(), id, text)
	} else if err != nil {
		replyError(w, err)
		return
	}
	a.disconnected(w, r, n, operator(r).String(), text)
}

func (a *api) disconnectHere(ctx context.Context, id, text string) int {
	ctx, cancel := context.WithTimeout(ctx, byeWithin)
	defer cancel()
	return a.server.Disconnect(ctx, id, cmp.Or(text, "an operator asks the device to connect again"))
}

// disconnected answers that so many sessions were ended.
func (a *api) disconnected(w http.ResponseWriter, r *http.Request, n int, by, text string) {
	if n == 0 {
		replyError(w, server.ErrNotConnected)
		return
	}
	id := r.PathValue("id")
	a.log.Info("device was disconnected", "device", id, "by", by, "text", text)
	reply(w, http.StatusOK, admin.Disconnected{Device: id, Sessions: n})
}

// readText reads what a device is to be told, or answers the request.
func readText(w http.ResponseWriter, r *http.Request) (text string, ok bool) {
	var body struct {
		Text string `json:"text"`
	}
	ok = readBody(w, r, &body, func() int { return len(body.Text) })
	return body.Text, ok
}

// groups lists the groups that the configuration or a certificate names.
func (a *api) groups(w http.ResponseWriter, r *http.Request) {
	all, err := a.members(r)
	if err != nil {
		replyError(w, err)
		return
	}
	out := []admin.Group{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		out = append(out, all[name].Group)
	}
	reply(w, http.StatusOK, out)
}

func (a *api) group(w http.ResponseWriter, r *http.Request) {
	all, err := a.members(r)
	if err != nil {
		replyError(w, err)
		return
	}
	g, ok := all[r.PathValue("group")]
	if !ok {
		reply(w, http.StatusNotFound, admin.Outcome{State: admin.Unknown,
			Text: "there is no group " + r.PathValue("group") + ": neither the configuration nor the certificate of a known device names it"})
		return
	}
	reply(w, http.StatusOK, g)
}

// members gives the groups with the devices that the operator may see. A group
// of certificates alone is seen by who sees a member.
func (a *api) members(r *http.Request) (map[string]*admin.GroupDetail, error) {
	members, err := a.fleet.Members(r.Context())
	if err != nil {
		return nil, err
	}
	online := map[string]bool{}
	if err := a.fleet.Elsewhere(r.Context(), func(at fleet.Place) { online[at.Device] = true }); err != nil {
		return nil, err
	}
	for s := range a.server.Registry().All() {
		online[s.Device()] = true
	}
	configured := a.guard.Groups()
	all := map[string]*admin.GroupDetail{}
	for name, devices := range members {
		c, named := configured[name]
		g := &admin.GroupDetail{Group: admin.Group{Name: name, Devices: orEmpty(c.Devices), OU: orEmpty(c.OU)}, Members: []admin.Member{}}
		for _, device := range devices {
			if !a.guard.Sees(operator(r), device) {
				continue
			}
			g.Members = append(g.Members, admin.Member{Device: device, Connected: online[device]})
			g.Count++
			if online[device] {
				g.Connected++
			}
		}
		if named || g.Count > 0 {
			all[name] = g
		}
	}
	return all, nil
}

// orEmpty is a list that JSON has as [] and not as null.
func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}
