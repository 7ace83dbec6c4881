package server

import (
	"container/list"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"sync"
	"time"

	"github.com/atls-ws/atls-ws/internal/sealed"
)

var (
	// ErrNoKey says that a key is not known, or not any more.
	ErrNoKey = errors.New("no such key")
	// ErrReplayed says that a request was there before, or one long after it.
	ErrReplayed = errors.New("replayed")
)

// SealedKey is what the requests of a device outside its session, and the
// answers to them, are sealed with. It is secret, but for the ID.
type SealedKey struct {
	ID       string
	Device   string
	Up, Down []byte // 32 bytes each, of requests and of answers
	Expires  time.Time
}

// KeyStore keeps the keys of devices. With one that several servers share, any
// of them answers a sealed request, whichever holds the session. All methods may
// be called from any goroutine.
type KeyStore interface {
	// Put keeps a key until it expires. A key that is there already gets another
	// end; which of its counters were used does not change.
	Put(ctx context.Context, k *SealedKey) error
	// Get returns the key with this id, or an error that matches ErrNoKey.
	Get(ctx context.Context, id string) (*SealedKey, error)
	// Use notes, in one step with looking, that the counter is used. It returns an
	// error that matches ErrReplayed when it was already, or may have been.
	Use(ctx context.Context, id string, counter uint64) error
}

const (
	defaultKeys   = 200_000
	putKeyTimeout = 5 * time.Second
)

// MemoryKeys is a KeyStore for one process.
type MemoryKeys struct {
	max int

	mu    sync.Mutex
	byID  map[string]*list.Element // of *storedKey
	order list.List                // the first put first
}

type storedKey struct {
	SealedKey
	used window
}

// NewMemoryKeys makes a store of at most max keys, or 200,000 when it is 0; one
// more drops the one that was put, or put again, before all others.
func NewMemoryKeys(max int) *MemoryKeys {
	if max <= 0 {
		max = defaultKeys
	}
	return &MemoryKeys{max: max, byID: map[string]*list.Element{}}
}

// Put implements KeyStore.
func (m *MemoryKeys) Put(_ context.Context, k *SealedKey) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.byID[k.ID]; ok {
		e.Value.(*storedKey).SealedKey = *k
		m.order.MoveToBack(e)
		return nil
	}
	now := time.Now()
	for e := m.order.Front(); e != nil && (m.order.Len() >= m.max || now.After(e.Value.(*storedKey).Expires)); e = m.order.Front() {
		m.drop(e)
	}
	m.byID[k.ID] = m.order.PushBack(&storedKey{SealedKey: *k})
	return nil
}

func (m *MemoryKeys) drop(e *list.Element) {
	delete(m.byID, e.Value.(*storedKey).ID)
	m.order.Remove(e)
}

// get returns a key that has not expired. m.mu is held.
func (m *MemoryKeys) get(id string) (*storedKey, error) {
	e, ok := m.byID[id]
	if !ok {
		return nil, ErrNoKey
	}
	k := e.Value.(*storedKey)
	if !time.Now().Before(k.Expires) {
		m.drop(e)
		return nil, ErrNoKey
	}
	return k, nil
}

// Get implements KeyStore.
func (m *MemoryKeys) Get(_ context.Context, id string) (*SealedKey, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, err := m.get(id)
	if err != nil {
		return nil, err
	}
	out := k.SealedKey
	return &out, nil
}

// Use implements KeyStore.
func (m *MemoryKeys) Use(_ context.Context, id string, counter uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, err := m.get(id)
	if err != nil {
		return err
	}
	if !k.used.use(counter) {
		return ErrReplayed
	}
	return nil
}

// window remembers the last 1024 counters, as requests overtake each other.
type window struct {
	top  uint64
	bits [16]uint64 // of the counter c, bit c%1024
}

func (w *window) use(c uint64) bool {
	const size = 64 * uint64(len(w.bits))
	if c == 0 || w.top >= size && c <= w.top-size {
		return false
	}
	if c > w.top {
		if c-w.top >= size {
			w.bits = [16]uint64{}
		} else {
			for n := w.top + 1; n <= c; n++ {
				w.bits[n%size/64] &^= 1 << (n % 64)
			}
		}
		w.top = c
	}
	bit := uint64(1) << (c % 64)
	if w.bits[c%size/64]&bit != 0 {
		return false
	}
	w.bits[c%size/64] |= bit
	return true
}

// putKey keeps the key of an inner connection. Without it the device's session
// works all the same.
func (s *Server) putKey(ctx context.Context, cs tls.ConnectionState, device string) {
	if s.cfg.Keys == nil {
		return
	}
	k, err := sealed.Derive(cs.ExportKeyingMaterial)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, putKeyTimeout)
		defer cancel()
		err = s.cfg.Keys.Put(ctx, &SealedKey{
			ID: encodeID(k.ID), Device: device, Up: k.Up[:], Down: k.Down[:], Expires: time.Now().Add(s.cfg.KeyLifetime),
		})
	}
	if err != nil {
		s.cfg.Logger.Warn("key of sealed requests not kept", "device", device, "err", err)
	}
}

func encodeID(id sealed.ID) string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// renewKeys moves the end of the keys whose sessions live on.
func (s *Server) renewKeys() {
	tick := time.NewTicker(max(s.cfg.KeyLifetime/3, 50*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
		}
		type one struct {
			state  tls.ConnectionState
			device string
		}
		var all []one
		s.mu.Lock()
		for sess := range s.live {
			if !sess.Hello().Probe {
				all = append(all, one{sess.ConnectionState(), sess.Device()})
			}
		}
		for p := range s.httpPeers {
			if p.guest == nil {
				all = append(all, one{p.ConnectionState(), p.device})
			}
		}
		s.mu.Unlock()
		for _, o := range all {
			s.putKey(s.ctx, o.state, o.device)
		}
	}
}
