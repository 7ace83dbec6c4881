package fleet

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/atls-ws/atls-ws/internal/proto"
	"github.com/atls-ws/atls-ws/server"
)

// deviceRecord is what is kept of a device, connected or not.
type deviceRecord struct {
	Device   string    `json:"device"`
	Groups   []string  `json:"groups,omitempty"` // the organizational units of its certificate
	Carrier  string    `json:"carrier,omitempty"`
	Software string    `json:"software,omitempty"`
	LastSeen time.Time `json:"last_seen"`
}

// Bounds of what a certificate adds to a record.
const (
	maxGroups   = 16
	maxSoftware = 120
)

// certificateGroups are the organizational units of the subject, by which a
// device is in groups.
func certificateGroups(c *x509.Certificate) (groups []string) {
	for _, ou := range c.Subject.OrganizationalUnit {
		if len(groups) < maxGroups && len(ou) <= proto.MaxName && !slices.Contains(groups, ou) {
			groups = append(groups, ou)
		}
	}
	return groups
}

func recordOf(s *server.Session) deviceRecord {
	h := s.Hello()
	d := deviceRecord{Device: s.Device(), Carrier: h.Carrier, Software: h.Software[:min(len(h.Software), maxSoftware)], LastSeen: time.Now().UTC()}
	if certs := s.ConnectionState().PeerCertificates; len(certs) > 0 {
		d.Groups = certificateGroups(certs[0])
	}
	return d
}

// knownDevices stores the records of devices as they come and go, from one
// goroutine: many connecting at once are one write ahead, and none waits.
type knownDevices struct {
	f    *Fleet
	wake chan struct{}

	mu      sync.Mutex
	pending map[string]deviceRecord // by device: the latest
}

func newKnownDevices(f *Fleet) *knownDevices {
	return &knownDevices{f: f, wake: make(chan struct{}, 1), pending: map[string]deviceRecord{}}
}

func (k *knownDevices) put(d deviceRecord) {
	k.mu.Lock()
	k.pending[d.Device] = d
	k.mu.Unlock()
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

func (k *knownDevices) write() {
	for {
		select {
		case <-k.wake:
		case <-k.f.ctx.Done():
			return
		}
		for !k.flush(k.f.ctx) {
			timer := time.NewTimer(retryPause)
			select {
			case <-timer.C:
			case <-k.f.ctx.Done():
				timer.Stop()
				return
			}
		}
	}
}

// flush stores what is pending and says whether nothing is left.
func (k *knownDevices) flush(ctx context.Context) bool {
	k.mu.Lock()
	all := k.pending
	k.pending = map[string]deviceRecord{}
	k.mu.Unlock()
	acks := map[string]jetstream.PubAckFuture{}
	ok := true
	again := func(d deviceRecord) {
		ok = false
		k.mu.Lock()
		defer k.mu.Unlock()
		if _, newer := k.pending[d.Device]; !newer {
			k.pending[d.Device] = d
		}
	}
	for device, d := range all {
		m := nats.NewMsg(deviceSubject + "." + token(device))
		m.Data, _ = json.Marshal(d)
		var err error
		if acks[device], err = k.f.store.js.PublishMsgAsync(m); err != nil {
			again(d)
			delete(acks, device)
		}
	}
	for device, ack := range acks {
		select {
		case <-ack.Ok():
		case err := <-ack.Err():
			k.f.log.Debug("device is not noted yet", "device", device, "err", err)
			again(all[device])
		case <-ctx.Done():
			again(all[device])
		}
	}
	return ok
}

// Known calls fn for every device that was ever connected.
func (f *Fleet) Known(ctx context.Context, fn func(device string, groups []string, lastSeen time.Time)) error {
	return f.store.walk(ctx, deviceStream, deviceSubject+".*", 1, func(m *nats.Msg) bool {
		var d deviceRecord
		if json.Unmarshal(m.Data, &d) == nil {
			fn(d.Device, d.Groups, d.LastSeen)
		}
		return true
	})
}

// Seen says whether the device was ever connected.
func (f *Fleet) Seen(ctx context.Context, device string) (bool, error) {
	if f.link(device) != nil {
		return true, nil
	}
	m, err := f.store.last(ctx, deviceStream, deviceSubject+"."+token(device))
	return m != nil, err
}
