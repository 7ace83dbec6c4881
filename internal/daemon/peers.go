package daemon

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/daemon/fleet"
	"github.com/atls-ws/atls-ws/internal/pki"
	"github.com/atls-ws/atls-ws/internal/proto"
	"github.com/atls-ws/atls-ws/server"
)

const (
	peerTimeout = 5 * time.Second                // for another node to list its devices
	relayTime   = serviceTimeout + 2*time.Second // for a node to do what it is asked; it has its own bound
	relayTries  = 3                              // a device may move between the look and the question
	relayPause  = 100 * time.Millisecond
)

// peers are the other nodes of the fleet. What they ask is answered with what
// this node itself has: a request is relayed once, never twice.
type peers struct {
	d        *daemon
	tls      *tls.Config
	http     *http.Server
	listener net.Listener
	streams
}

// openPeers listens for other nodes. The fleet is not open yet.
func (d *daemon) openPeers(ctx context.Context, cfg *config.Server) error {
	if !cfg.Cluster.On() {
		return nil
	}
	conf, err := cfg.Cluster.TLS()
	if err != nil {
		return err
	}
	conf.NextProtos = []string{"http/1.1"}
	l, err := listen(ctx, cfg.Cluster.Listen)
	if err != nil {
		return err
	}
	d.log.Info("listening for nodes", "addr", l.Addr().String())
	d.peers = &peers{d: d, tls: conf, listener: tls.NewListener(l, conf), streams: streams{keepalive: keepaliveOf(cfg)}}
	return nil
}

// node is this daemon to the fleet; nil when it is alone.
func (p *peers) node(cfg *config.Server) *fleet.Node {
	if p == nil {
		return nil
	}
	return &fleet.Node{Name: cfg.Cluster.Node, Address: cmp.Or(cfg.Cluster.Advertise, p.listener.Addr().String()), TLS: p.tls}
}

// answer makes what answers other nodes.
func (p *peers) answer() {
	m := http.NewServeMux()
	m.HandleFunc("GET /v1/devices", func(w http.ResponseWriter, r *http.Request) {
		reply(w, http.StatusOK, p.d.admin.connected(func(string) bool { return true }))
	})
	m.HandleFunc("GET /v1/devices/{id}", p.device)
	m.HandleFunc("POST /v1/devices/{id}/disconnect", p.disconnectHere)
	m.HandleFunc("POST /v1/devices/{id}/services/{service}", p.dial)
	m.HandleFunc("GET /v1/streams/{stream}", p.stream)
	p.http = p.d.httpServer(m)
}

func (p *peers) dial(w http.ResponseWriter, r *http.Request) {
	stream, err := p.d.reach.dialHere(r.Context(), r.PathValue("id"), r.PathValue("service"))
	if err != nil {
		replyError(w, err)
		return
	}
	p.hand(w, r, stream, p.d.log.With("device", r.PathValue("id"), "service", r.PathValue("service")))
}

func (p *peers) device(w http.ResponseWriter, r *http.Request) {
	s, ok := p.d.server.Registry().Get(r.PathValue("id"))
	if !ok {
		replyError(w, server.ErrNotConnected)
		return
	}
	d := p.d.admin.about(s)
	reply(w, http.StatusOK, admin.DeviceDetail{Device: d.Device, Connected: true, Session: &d})
}

func (p *peers) disconnectHere(w http.ResponseWriter, r *http.Request) {
	if text, ok := readText(w, r); ok {
		by, _ := pki.NodeName(r.TLS.PeerCertificates[0]) // TLS has looked
		p.d.admin.disconnected(w, r, p.d.admin.disconnectHere(r.Context(), r.PathValue("id"), text), "node "+by, text)
	}
}

// client is for the node of that name.
func (p *peers) client(name, address string) *admin.Client {
	return admin.NewNode(name, address, p.tls, func(s tls.ConnectionState) (string, error) { return pki.NodeName(s.PeerCertificates[0]) })
}

// holder asks the other node that holds a device, and says which that is. The
// error is server.ErrNotConnected when none does.
func (p *peers) holder(ctx context.Context, device string, ask func(context.Context, *admin.Client) error) (at *fleet.Place, err error) {
	if p == nil {
		return nil, server.ErrNotConnected
	}
	ctx, cancel := context.WithTimeout(ctx, relayTime)
	defer cancel()
	for range relayTries {
		if at, err = p.d.fleet.Locate(ctx, device); err != nil {
			return nil, err
		}
		if at == nil {
			return nil, fmt.Errorf("device %s: %w", device, server.ErrNotConnected)
		}
		if err = ask(ctx, p.client(at.Node, at.Address)); err == nil {
			return at, nil
		}
		if ctx.Err() != nil {
			return at, silent(at.Node, err)
		}
		if err = relayed(at.Node, err); !errors.Is(err, server.ErrNotConnected) {
			return at, err
		}
		timer := time.NewTimer(relayPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
	}
	return nil, err
}

// connect connects to a service of a device that another node holds.
func (p *peers) connect(ctx context.Context, device, service string) (conn net.Conn, err error) {
	_, err = p.holder(ctx, device, func(ctx context.Context, c *admin.Client) error {
		stream, err := c.Dial(ctx, device, service)
		if err == nil {
			conn = stream
		}
		return err
	})
	return conn, err
}

// disconnect ends the sessions of a device that another node holds.
func (p *peers) disconnect(ctx context.Context, device, text string) (n int, err error) {
	_, err = p.holder(ctx, device, func(ctx context.Context, c *admin.Client) error {
		d, err := c.Disconnect(ctx, device, text)
		if err == nil {
			n = d.Sessions
		}
		return err
	})
	return n, err
}

// session is the session of a device that another node holds; nil: there is
// none. Of a node that does not answer, it is what is known without it.
func (p *peers) session(ctx context.Context, device string) (s *admin.Device) {
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	at, err := p.holder(ctx, device, func(ctx context.Context, c *admin.Client) error {
		d, err := c.Device(ctx, device)
		if err == nil {
			s = d.Session
		}
		return err
	})
	if s == nil && at != nil {
		p.d.log.Warn("a node does not tell of its device", "node", at.Node, "device", device, "err", err)
		s = placed(*at)
	}
	if s != nil {
		s.Node = at.Node
	}
	return s
}

// placed is what is known of a device without the node that holds it.
func placed(at fleet.Place) *admin.Device {
	return &admin.Device{Device: at.Device, Node: at.Node, Session: at.Session, Since: at.Since, Services: []string{}}
}

func silent(node string, err error) error {
	return fleet.Unavailable(fmt.Errorf("the node %s, which holds the device, does not answer: %w", node, err),
		"see that it runs, and that its cluster.listen is reachable from here; devices of a dead node come back to another one")
}

// relayed makes of another node's no what this node itself would have said.
func relayed(node string, err error) error {
	var outcome *admin.OutcomeError
	if !errors.As(err, &outcome) {
		return silent(node, err)
	}
	switch outcome.State {
	case admin.NotConnected:
		return fmt.Errorf("node %s: %w", node, server.ErrNotConnected)
	case admin.Refused:
		for c := range proto.Code(255) {
			if c != proto.OK && c.String() == outcome.Code {
				return &server.RefusedError{Code: c, Text: outcome.Text}
			}
		}
		return &server.RefusedError{Code: proto.Refused, Text: outcome.Text}
	case admin.Timeout:
		return context.DeadlineExceeded
	}
	return fmt.Errorf("node %s: %w", node, err)
}

// devices adds what the other nodes have. Of a node that does not answer, it is
// what is known without it.
func (p *peers) devices(ctx context.Context, sees func(string) bool) []admin.Device {
	if p == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	var mu sync.Mutex
	var all []admin.Device
	mute := map[string]bool{}
	var asking sync.WaitGroup
	for name, address := range p.d.fleet.Peers() {
		asking.Go(func() {
			theirs, err := p.client(name, address).Devices(ctx)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				p.d.log.Warn("a node does not list its devices", "node", name, "err", err)
				mute[name] = true
			}
			for _, d := range theirs {
				if sees(d.Device) {
					d.Node = name
					all = append(all, d)
				}
			}
		})
	}
	asking.Wait()
	if len(mute) > 0 {
		known, cancel := context.WithTimeout(context.WithoutCancel(ctx), peerTimeout)
		defer cancel()
		_ = p.d.fleet.Elsewhere(known, func(at fleet.Place) { // else the list has what could be had
			if mute[at.Node] && sees(at.Device) {
				all = append(all, *placed(at))
			}
		})
	}
	return all
}

// newest keeps of a device that two nodes have, for a moment, the newer session.
func newest(all []admin.Device) []admin.Device {
	slices.SortFunc(all, func(a, b admin.Device) int { return cmp.Or(cmp.Compare(a.Device, b.Device), b.Since.Compare(a.Since)) })
	return slices.CompactFunc(all, func(a, b admin.Device) bool { return a.Device == b.Device })
}

func (p *peers) close() {
	if p == nil {
		return
	}
	if p.http != nil {
		_ = p.http.Close()
	}
	_ = p.listener.Close()
	p.streams.close()
}
