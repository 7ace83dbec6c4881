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
	peerTimeout = 5 * time.Second // for another node to list its devices
	relayTries  = 3               // a device may move between the look and the dial
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
	d.peers = &peers{d: d, tls: conf, listener: tls.NewListener(l, conf)}
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
	p.hand(w, stream, p.d.log.With("device", r.PathValue("id"), "service", r.PathValue("service")))
}

// client is for the node of that name.
func (p *peers) client(name, address string) *admin.Client {
	return admin.NewNode(name, address, p.tls, func(s tls.ConnectionState) (string, error) { return pki.NodeName(s.PeerCertificates[0]) })
}

// connect connects to a service of a device that another node holds. The error
// is server.ErrNotConnected when none does.
func (p *peers) connect(ctx context.Context, device, service string) (net.Conn, error) {
	var err error
	for range relayTries {
		var at *fleet.Place
		if at, err = p.d.fleet.Locate(ctx, device); err != nil {
			return nil, err
		}
		if at == nil {
			return nil, fmt.Errorf("device %s: %w", device, server.ErrNotConnected)
		}
		var conn *admin.Conn
		if conn, err = p.client(at.Node, at.Address).Dial(ctx, device, service); err == nil {
			return conn, nil
		}
		if err = relayed(at.Node, err); !errors.Is(err, server.ErrNotConnected) {
			return nil, err
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

// relayed makes of another node's no what this node itself would have said.
func relayed(node string, err error) error {
	var outcome *admin.OutcomeError
	if !errors.As(err, &outcome) {
		return fleet.Unavailable(fmt.Errorf("the node %s, which holds the device, does not answer: %w", node, err), "see that it runs, and that its cluster.listen is reachable from here; devices of a dead node come back to another one")
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
	silent := map[string]bool{}
	var asking sync.WaitGroup
	for name, address := range p.d.fleet.Peers() {
		asking.Go(func() {
			theirs, err := p.client(name, address).Devices(ctx)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				p.d.log.Warn("a node does not list its devices", "node", name, "err", err)
				silent[name] = true
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
	if len(silent) > 0 {
		known, cancel := context.WithTimeout(context.WithoutCancel(ctx), peerTimeout)
		defer cancel()
		_ = p.d.fleet.Elsewhere(known, func(at fleet.Place) { // else the list has what could be had
			if silent[at.Node] && sees(at.Device) {
				all = append(all, admin.Device{Device: at.Device, Node: at.Node, Session: at.Session, Since: at.Since})
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
	p.wait()
}
