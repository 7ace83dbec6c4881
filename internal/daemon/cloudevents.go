package daemon

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/daemon/cloudevent"
	"github.com/atls-ws/atls-ws/internal/daemon/fleet"
)

// maxCloudEvent bounds a request: a signal's data in base64 or with escapes, and
// attributes.
const maxCloudEvent = 4 * admin.MaxData

// expiryTime is the extension that says until when an event is good for
// something.
const expiryTime = "expirytime"

// postEvent takes a CloudEvent as a signal: its type is the signal's name, its
// subject whom it is for. It answers as a push does. Whom it is for stands in the
// event, so it is held to the rules here and not by its path.
func (a *api) postEvent(w http.ResponseWriter, r *http.Request) {
	p, err := pushOptions(r.URL.Query())
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxCloudEvent))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		fail(w, http.StatusRequestEntityTooLarge, "an event is at most 256 KiB, and its data 64 KiB")
		return
	} else if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	e, err := cloudevent.Parse(r.Header, body)
	if media := (*cloudevent.TypeError)(nil); errors.As(err, &media) {
		w.Header().Set("Accept", cloudevent.JSON)
		fail(w, http.StatusUnsupportedMediaType, err.Error())
		return
	} else if err != nil {
		fail(w, http.StatusBadRequest, "CloudEvent: "+err.Error())
		return
	}
	if len(e.Data) > admin.MaxData {
		fail(w, http.StatusRequestEntityTooLarge, "a signal's data is at most 64 KiB")
		return
	}
	target, err := subjectTarget(e.Subject)
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	if !permitted(a.guard, w, r, config.ScopeSignal, cmp.Or(target.Device, "*"), e.Type) {
		return
	}
	p.Target, p.Name, p.ContentType, p.Data = target, e.Type, e.ContentType, e.Data
	p.id, p.Fresh = signalID(e), false
	if text, ok := e.Extensions[expiryTime]; ok {
		until, err := time.Parse(time.RFC3339, text)
		if err != nil {
			fail(w, http.StatusBadRequest, "expirytime: want a time such as 2026-01-02T15:04:05Z")
			return
		}
		if p.TTL = time.Until(until); p.TTL <= 0 {
			reply(w, http.StatusGone, admin.Outcome{Signal: hex.EncodeToString(p.id[:]), Device: target.Device, State: admin.Expired,
				Text: "its expirytime is over: it was not sent", Time: time.Now().UTC()})
			return
		}
	}
	if target.Device != "" {
		a.pushOne(w, r, p)
	} else {
		a.pushTo(w, r, p)
	}
}

// subjectTarget is whom an event is for: a device's id, group:NAME or all, and
// device:ID where an id would read as one of these.
func subjectTarget(subject string) (t fleet.Target, err error) {
	if subject == "" {
		return t, errors.New("the subject is missing: want a device's id, group:NAME or all")
	}
	if subject == "all" {
		return t, nil
	}
	if group, ok := strings.CutPrefix(subject, "group:"); ok {
		if group == "" {
			return t, errors.New("subject group: the name is missing")
		}
		return fleet.Target{Group: group}, nil
	}
	device := strings.TrimPrefix(subject, "device:")
	return fleet.Target{Device: device}, fleet.CheckDevice(device)
}

// signalID is the id of an event's signal. An event is the same when its source
// and its id are.
func signalID(e *cloudevent.Event) (id [16]byte) {
	sum := sha256.Sum256([]byte(e.Source + "\x00" + e.ID))
	copy(id[:], sum[:])
	return id
}
