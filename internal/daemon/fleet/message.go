package fleet

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/server"
)

// Headers of a stored signal; its data is the message's.
const (
	idHeader     = "Atls-Id"
	nameHeader   = "Atls-Name"
	expiryHeader = "Atls-Expires" // Unix milliseconds
	typeHeader   = "Content-Type"
)

// signalMessage is a signal for a device's queue.
func signalMessage(device string, sig *server.Signal) *nats.Msg {
	m := nats.NewMsg(signalSubject + "." + token(device))
	id := hex.EncodeToString(sig.ID[:])
	setSignal(m, sig)
	m.Header.Set(expiryHeader, strconv.FormatInt(sig.Expiry.UnixMilli(), 10))
	m.Header.Set(jetstream.MsgIDHeader, id+"."+token(device))
	// NATS counts seconds. It may keep a signal a little longer than it is worth,
	// for delivery looks at the expiry itself, but not shorter.
	m.Header.Set(jetstream.MsgTTLHeader, strconv.FormatInt(int64(time.Until(sig.Expiry)/time.Second)+1, 10)+"s")
	return m
}

func setSignal(m *nats.Msg, sig *server.Signal) {
	m.Header.Set(idHeader, hex.EncodeToString(sig.ID[:]))
	m.Header.Set(nameHeader, sig.Name)
	if sig.ContentType != "" {
		m.Header.Set(typeHeader, sig.ContentType)
	}
	m.Data = sig.Data
}

// parseSignal is the inverse. The signal's Data aliases m's.
func parseSignal(m *nats.Msg) (server.Signal, error) {
	sig := server.Signal{Seq: sequence(m), Name: m.Header.Get(nameHeader), ContentType: m.Header.Get(typeHeader), Data: m.Data}
	id, err := parseID(m.Header.Get(idHeader))
	if err != nil {
		return sig, err
	}
	sig.ID = id
	ms, err := strconv.ParseInt(m.Header.Get(expiryHeader), 10, 64)
	if err != nil {
		return sig, fmt.Errorf("header %s: %w", expiryHeader, err)
	}
	sig.Expiry = time.UnixMilli(ms)
	return sig, sig.Check()
}

func parseID(s string) (id [16]byte, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("%q is not the id of a signal: want 32 hex digits", s)
	}
	copy(id[:], b)
	return id, nil
}

// stored is when a message was stored.
func stored(m *nats.Msg) time.Time {
	t, _ := time.Parse(time.RFC3339Nano, m.Header.Get("Nats-Time-Stamp"))
	return t.UTC()
}

// sendRecord is a part of a fan-out: which devices have the signal in their
// queues. It is stored after their signals, and before the sender hears of it.
type sendRecord struct {
	ID          string            `json:"id"`
	Name        string            `json:"name"`
	ContentType string            `json:"content_type,omitempty"`
	Bytes       int               `json:"bytes"`
	Target      string            `json:"target"`
	Created     time.Time         `json:"created"`
	Expires     time.Time         `json:"expires"`
	Part        int               `json:"part"`
	Last        bool              `json:"last"`
	Devices     []string          `json:"devices"`
	Failed      map[string]string `json:"failed,omitempty"`
}

// outcomeMessage is a final outcome for its stream.
func outcomeMessage(o *admin.Outcome) *nats.Msg {
	m := nats.NewMsg(outSubject + "." + o.Signal + "." + token(o.Device))
	m.Data, _ = json.Marshal(o) // of strings and a time
	return m
}

func parseOutcome(m *nats.Msg) (o admin.Outcome, err error) {
	err = json.Unmarshal(m.Data, &o)
	return o, err
}
