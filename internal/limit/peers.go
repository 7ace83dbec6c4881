package limit

import (
	"net"
	"sync"
	"sync/atomic"
)

// Peers bounds connections by the peer that they belong to. The zero value
// bounds nothing.
type Peers struct {
	Conns int   // of one peer at once; 0: no limit
	Rate  int64 // bytes a second of one peer, each way; 0: no limit
	Each  int64 // bytes a second of one connection, each way; 0: no limit

	in, out, full, slowed atomic.Uint64

	mu    sync.Mutex
	peers map[string]*peer
}

type peer struct {
	conns   int
	in, out *Bucket
}

// Enter counts a further connection of a peer; false: it has as many as it
// may. The caller leaves with the function that comes back.
func (p *Peers) Enter(name string) (leave func(), ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	one := p.peers[name]
	if one == nil {
		one = &peer{in: NewBucket(p.Rate), out: NewBucket(p.Rate)}
		if p.peers == nil {
			p.peers = map[string]*peer{}
		}
		p.peers[name] = one
	}
	if p.Conns > 0 && one.conns >= p.Conns {
		p.full.Add(1)
		return nil, false
	}
	one.conns++
	var once sync.Once
	return func() {
		once.Do(func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			if one.conns--; one.conns == 0 {
				delete(p.peers, name)
			}
		})
	}, true
}

// Wrap counts the bytes and bounds the rate of a connection of a peer that has entered.
func (p *Peers) Wrap(name string, conn net.Conn) net.Conn {
	p.mu.Lock()
	one := p.peers[name]
	p.mu.Unlock()
	if one == nil {
		one = &peer{}
	}
	in, out := Rate{one.in, NewBucket(p.Each)}, Rate{one.out, NewBucket(p.Each)}
	return &Conn{Conn: conn, in: in.compact(), out: out.compact(), counts: p, closed: make(chan struct{})}
}

// Stats are numbers of a moment, and counts since the beginning.
type Stats struct {
	Conns   int    // that have entered
	In, Out uint64 // bytes read from and written to wrapped connections
	Full    uint64 // refusals of Enter
	Slowed  uint64 // reads and writes that had to wait for their rate
}

// Stats returns the numbers of all peers together.
func (p *Peers) Stats() Stats {
	s := Stats{In: p.in.Load(), Out: p.out.Load(), Full: p.full.Load(), Slowed: p.slowed.Load()}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range p.peers {
		s.Conns += one.conns
	}
	return s
}
