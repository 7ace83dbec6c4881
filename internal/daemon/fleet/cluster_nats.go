package fleet

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"time"

	nats_server "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// NATSCluster makes the embedded NATS of several nodes one.
type NATSCluster struct {
	Name      string // the same on all nodes
	Listen    string // where the others connect, host:port; empty: there is no cluster
	Advertise string // as they reach it; empty: NATS finds out
	Routes    []string
}

const (
	routePing    = 5 * time.Second // a route that is silent for three of them is gone
	clusterStart = 2 * time.Minute // for more than half of the nodes to come
)

// join makes the embedded server a node of the cluster. Its routes start only
// with a listener for clients: that is one on loopback, with a secret that stays
// in this process.
func join(o *nats_server.Options, c *Config) (secret nats.Option, err error) {
	k := c.NATS.Cluster
	host, port, err := net.SplitHostPort(k.Listen)
	if err != nil {
		return nil, err
	}
	o.Cluster = nats_server.ClusterOpts{
		Name: k.Name, Host: host, Advertise: k.Advertise, NoAdvertise: true, PingInterval: routePing,
		TLSConfig: c.Node.TLS.Clone(), TLSTimeout: 5,
	}
	o.Cluster.TLSConfig.NextProtos = nil
	o.Cluster.TLSConfig.ClientAuth = tls.RequireAndVerifyClientCert
	if o.Cluster.Port, err = strconv.Atoi(port); err != nil {
		return nil, err
	}
	if o.Cluster.Port == 0 {
		o.Cluster.Port = nats_server.RANDOM_PORT
	}
	for _, r := range k.Routes {
		u, err := url.Parse(r)
		if err != nil {
			return nil, fmt.Errorf("nats.cluster.routes: %w", err)
		}
		o.Routes = append(o.Routes, u)
	}
	o.ServerName = c.Node.Name
	o.DontListen, o.Host, o.Port = false, "127.0.0.1", nats_server.RANDOM_PORT
	o.Authorization = rand.Text()
	return nats.Token(o.Authorization), nil
}

// settled tries what a cluster may not answer yet: a stream is there before its
// leader and its replicas are.
func (s *store) settled(ctx context.Context, try func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, leaderTimeout)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil || !waitsForLeader(err) {
			return err
		}
		timer := time.NewTimer(200 * time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return &StartError{fmt.Errorf("%s: JetStream does not answer: %w", s.where, err), "start more than half of the cluster's nodes" + s.others()}
		}
	}
}

// others is how many of the cluster's other nodes are reached, for messages.
func (s *store) others() string {
	if s.embedded == nil || !s.clustered {
		return ""
	}
	names := map[string]bool{}
	if routes, err := s.embedded.Routez(nil); err == nil {
		for _, r := range routes.Routes {
			names[r.RemoteName] = true
		}
	}
	return fmt.Sprintf("; %d other nodes are reached", len(names))
}
