package session

import (
	"context"
	"fmt"
	"net"
	"sort"
	"sync"
	"time"

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
// no session, only an inner connection of atls-http/1. At most 64 wait to be
// accepted; who finds them all there is refused as busy after ten seconds.
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
	l := &listener{
		mux: m, name: service,
		places: make(chan struct{}, waiting), conns: make(chan net.Conn, waiting), done: make(chan struct{}),
	}
	if m.services == nil {
		m.services = map[string]*listener{}
	}
	m.services[service] = l
	return l, nil
}

// Offer hands conn to the listener of a service, which then owns it. It waits for
// a place as a stream does, or until ctx ends. An error says that nobody listens or
// too many wait.
func Offer(ctx context.Context, m *Mux, service string, conn net.Conn) error {
	l := m.listener(service)
	if l == nil {
		return fmt.Errorf("no service %s", service)
	}
	if err := l.place(ctx); err != nil {
		return err
	}
	return l.put(conn)
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
	waiting  = 64               // connections to be accepted from one listener
	maxPlace = 10 * time.Second // waited for a place among them
)

// listener is a service of a Mux as a net.Listener. All peers share its places:
// who finds none waits, so that a peer that opens many streams at once delays
// the others and costs them nothing else.
type listener struct {
	mux    *Mux
	name   string
	places chan struct{} // held by what is in conns, or about to be
	conns  chan net.Conn
	done   chan struct{}
	once   sync.Once
	mu     sync.Mutex // held while a conn is handed over, so that Close misses none
}

// place waits for a place, which is for put or free.
func (l *listener) place(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, maxPlace)
	defer cancel()
	select {
	case l.places <- struct{}{}:
		return nil
	case <-l.done:
		return net.ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("%d connections wait to be accepted", waiting)
	}
}

func (l *listener) free() { <-l.places }

// put hands over a conn that has a place. It does not wait.
func (l *listener) put(conn net.Conn) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.done:
		l.free()
		return net.ErrClosed
	default:
		l.conns <- conn
		return nil
	}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		l.free()
		return conn, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		l.mux.mu.Lock()
		delete(l.mux.services, l.name)
		l.mux.mu.Unlock()
		l.mu.Lock()
		close(l.done)
		l.mu.Unlock()
		for {
			select {
			case conn := <-l.conns:
				l.free()
				_ = conn.Close()
			default:
				return
			}
		}
	})
	return nil
}

func (l *listener) Addr() net.Addr { return serviceAddr(l.name) }

// serviceAddr is a service's name as a net.Addr.
type serviceAddr string

func (serviceAddr) Network() string  { return "atls" }
func (a serviceAddr) String() string { return string(a) }
