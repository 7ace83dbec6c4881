package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sort"
	"sync"

	"github.com/atls-ws/atls-ws/internal/proto"
)

// Signal is a small message, answered by an ack or a refusal.
type Signal = proto.Signal

// SignalHandler answers a signal. A nil error acks it with the reply as text; an
// error refuses it with the error's text. ctx ends with the session or with
// the signal's expiry. Signals of one peer are handled one after the other.
type SignalHandler func(ctx context.Context, s Signal) (reply string, err error)

// AnySignal is the name whose handler gets the signals that have none.
const AnySignal = "*"

// Mux is what one end answers to: signals by name, services by name. It
// outlives sessions. The zero value is ready and refuses everything; all
// methods may be called at any time from any goroutine.
type Mux struct {
	mu       sync.Mutex
	signals  map[string]SignalHandler
	services map[string]*listener
}

// OnSignal sets the handler of the signals of that name, AnySignal for all that
// have none of their own. A nil handler removes it.
func (m *Mux) OnSignal(name string, h SignalHandler) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if h == nil {
		delete(m.signals, name)
		return
	}
	if m.signals == nil {
		m.signals = map[string]SignalHandler{}
	}
	m.signals[name] = h
}

// Listen makes the service reachable for the other end of every session of this
// Mux, until the listener is closed. The conns it accepts belong to the caller
// and are *Stream; those of a server's service http may also be peers that have
// no session, only an inner connection of atls-http/1. At most 64 of one device
// and 1,024 in all wait to be accepted; more are refused.
func (m *Mux) Listen(service string) (net.Listener, error) {
	if err := proto.CheckName(service); err != nil {
		return nil, fmt.Errorf("listen: service: %w", err)
	}
	if service == proto.ServiceSignals {
		return nil, fmt.Errorf("listen: service %q is reserved", service)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.services[service]; ok {
		return nil, fmt.Errorf("listen: service %q is taken", service)
	}
	l := &listener{mux: m, name: service, waits: map[string]int{}}
	l.some.L = &l.mu
	if m.services == nil {
		m.services = map[string]*listener{}
	}
	m.services[service] = l
	return l, nil
}

// Offer hands a device's conn to the listener of a service, which then owns it. It
// does not wait: an error says that nobody listens or too many connections wait.
func Offer(m *Mux, service, device string, conn net.Conn) error {
	l := m.listener(service)
	if l == nil {
		return fmt.Errorf("no service %s", service)
	}
	if err := l.reserve(device); err != nil {
		return err
	}
	return l.put(device, conn)
}

// Services returns the names that are listened on, sorted.
func (m *Mux) Services() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	names := make([]string, 0, len(m.services))
	for name := range m.services {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

func (m *Mux) handler(name string) SignalHandler {
	m.mu.Lock()
	defer m.mu.Unlock()
	if h, ok := m.signals[name]; ok {
		return h
	}
	return m.signals[AnySignal]
}

func (m *Mux) listener(service string) *listener {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.services[service]
}

const (
	waitOfDevice = 64   // connections of a device wait to be accepted from a listener,
	waitOfAll    = 1024 // and of all; those of devices that have gone wait, too
)

// ErrWaiting says that a service does not accept what is there already.
var ErrWaiting = errors.New("too many connections wait to be accepted")

// listener is a service of a Mux as a net.Listener. Each device has places of its
// own: one that opens many streams at once costs the others nothing.
type listener struct {
	mux  *Mux
	name string

	mu     sync.Mutex
	some   sync.Cond // conns has some, or closed
	closed bool
	conns  []waitingConn
	waits  map[string]int // of each device, in conns or about to be
}

type waitingConn struct {
	net.Conn
	device string // whose place it has
}

// reserve takes a place for a connection of a device, which is for put or free.
func (l *listener) reserve(device string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return net.ErrClosed
	case l.waits[device] >= waitOfDevice || len(l.conns) >= waitOfAll:
		return fmt.Errorf("%w: %d of this device, %d in all", ErrWaiting, l.waits[device], len(l.conns))
	}
	l.waits[device]++
	return nil
}

func (l *listener) free(device string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.freeLocked(device)
}

func (l *listener) freeLocked(device string) {
	if l.waits[device]--; l.waits[device] == 0 {
		delete(l.waits, device)
	}
}

// put hands over a conn for which there is a place. It does not wait.
func (l *listener) put(device string, conn net.Conn) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		l.freeLocked(device)
		return net.ErrClosed
	}
	l.conns = append(l.conns, waitingConn{conn, device})
	l.some.Signal()
	return nil
}

func (l *listener) Accept() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.conns) == 0 && !l.closed {
		l.some.Wait()
	}
	if l.closed {
		return nil, net.ErrClosed
	}
	w := l.conns[0]
	l.conns[0] = waitingConn{}
	if l.conns = l.conns[1:]; len(l.conns) == 0 {
		l.conns = nil // with what was before it
	}
	l.freeLocked(w.device)
	return w.Conn, nil
}

// Close ends what waits as a failure: its peer has been told that it is open.
func (l *listener) Close() error {
	l.mu.Lock()
	conns, closed := l.conns, l.closed
	l.conns, l.closed = nil, true
	l.some.Broadcast()
	l.mu.Unlock()
	if closed {
		return nil
	}
	l.mux.mu.Lock()
	delete(l.mux.services, l.name)
	l.mux.mu.Unlock()
	for _, w := range conns {
		if r, ok := w.Conn.(interface{ Reset() }); ok {
			r.Reset()
		}
		_ = w.Close()
	}
	return nil
}

func (l *listener) Addr() net.Addr { return serviceAddr(l.name) }

// serviceAddr is a service's name as a net.Addr.
type serviceAddr string

func (serviceAddr) Network() string  { return "atls" }
func (a serviceAddr) String() string { return string(a) }
