package daemon

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/atls-ws/atls-ws/internal/daemon/access"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
)

// maxBody bounds a request's JSON.
const maxBody = 8 << 10

// denied says why a device gets no session; nil: it does.
func (a *api) denied(d access.Device) *admin.Denial {
	if denial, ok := a.fleet.Denied(d.ID); ok {
		return &denial
	}
	if rule := a.guard.Denied(d); rule != "" {
		return &admin.Denial{Device: d.ID, Reason: "the server's configuration", Rule: rule}
	}
	return nil
}

// denials lists what the operators and the configuration deny.
func (a *api) denials(w http.ResponseWriter, r *http.Request) {
	all := []admin.Denial{}
	for _, d := range a.guard.Denials() {
		if a.guard.Sees(operator(r), d.Device) {
			all = append(all, d)
		}
	}
	for _, d := range a.fleet.Denials() {
		if a.guard.Sees(operator(r), d.Device) {
			all = append(all, d)
		}
	}
	reply(w, http.StatusOK, all)
}

func (a *api) deny(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Reason string `json:"reason"`
	}
	if !readBody(w, r, &body, func() int { return len(body.Reason) }) {
		return
	}
	d := admin.Denial{Device: r.PathValue("id"), Reason: body.Reason, By: operator(r).String(), Since: time.Now().UTC()}
	if err := a.fleet.Deny(r.Context(), d); err != nil {
		replyError(w, err)
		return
	}
	a.emit(admin.Event{Type: admin.TypeDenied, Device: d.Device, Text: d.Reason, By: d.By})
	a.log.Info("device is denied", "device", d.Device, "by", d.By, "reason", d.Reason)
	reply(w, http.StatusOK, d)
}

func (a *api) allowDevice(w http.ResponseWriter, r *http.Request) {
	device := r.PathValue("id")
	denial, ok := a.fleet.Denied(device)
	if rule := a.guard.Denied(access.Device{ID: device}); rule != "" && !ok {
		reply(w, http.StatusConflict, admin.Outcome{State: admin.Failed, Device: device, Text: "the server's configuration denies it: " + rule,
			Next: "take it out of deny in the server's configuration"})
		return
	}
	if err := a.fleet.Allow(r.Context(), device); err != nil {
		replyError(w, err)
		return
	}
	by := operator(r).String()
	a.emit(admin.Event{Type: admin.TypeAllowed, Device: device, By: by})
	a.log.Info("device is allowed again", "device", device, "by", by)
	reply(w, http.StatusOK, denial)
}

// readBody reads the JSON object of a request, which may be empty, or answers
// the request. size is that of its text.
func readBody(w http.ResponseWriter, r *http.Request, out any, size func() int) bool {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	d.DisallowUnknownFields()
	err := d.Decode(out)
	switch {
	case errors.Is(err, io.EOF):
		return true
	case err != nil:
		fail(w, http.StatusBadRequest, "the body: "+err.Error())
		return false
	case size() > admin.MaxReason:
		fail(w, http.StatusBadRequest, "the text is over 1 KiB")
		return false
	}
	return true
}
