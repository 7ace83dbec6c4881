//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/internal/balance"
	"github.com/atls-ws/atls-ws/internal/child"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
)

// cluster is three nodes behind a round robin.
type cluster struct {
	*site
	nodes    []*clusterNode
	balancer *balance.Balancer
}

type clusterNode struct {
	name, listen, peers, nats string
	proc                      *child.Child
}

func (c *cluster) node(name string) *clusterNode { return c.nodes[name[0]-'a'] }

func (c *cluster) client(n *clusterNode) *admin.Client {
	return admin.NewClient(c.file(n.name + ".sock"))
}

// newCluster starts three nodes, of which more is the rest of the configuration.
// Without a natsURL the NATS inside them is one cluster.
func newCluster(t *testing.T, natsURL, more string) *cluster {
	t.Helper()
	c := &cluster{site: newSite(t)}
	var routes, listens []string
	for _, name := range []string{"a", "b", "c"} {
		c.pair("node-" + name)(c.ca.Node(name, 0))
		n := &clusterNode{name: name, listen: "127.0.0.1:" + freePort(t), peers: "127.0.0.1:" + freePort(t), nats: "127.0.0.1:" + freePort(t)}
		c.nodes = append(c.nodes, n)
		routes = append(routes, `"nats://`+n.nats+`"`)
		listens = append(listens, n.listen)
	}
	nats := "cluster: {name: test, routes: [" + strings.Join(routes, ", ") + "]}"
	if natsURL != "" {
		nats = "url: " + natsURL
	}
	text := fmt.Sprintf(`inner: {cert: pki/server.pem, key: pki/server-key.pem, client_ca: pki/ca.pem}
admin: "{node}.sock"
data: "data-{node}"
audit: audit-{node}.log
nats: {%s}
cluster: {cert: "pki/node-{node}.pem", key: "pki/node-{node}-key.pem", ca: pki/ca.pem}
%s
`, nats, more)
	if err := os.WriteFile(c.file("cluster.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.nodes {
		c.start(n, natsURL == "")
	}
	for _, n := range c.nodes {
		await(t, n.proc, "msg=listening")
	}
	t.Cleanup(func() { // side by side: a minority of an embedded cluster stores nothing
		var stopping sync.WaitGroup
		for _, n := range c.nodes {
			stopping.Go(func() { n.proc.Stop(grace) })
		}
		stopping.Wait()
	})
	var err error
	if c.balancer, err = balance.Start(t.Context(), path, listens...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.balancer.Close)
	return c
}

func (c *cluster) start(n *clusterNode, embedded bool) {
	args := []string{"server", "--config", c.file("cluster.yaml"), "--node", n.name, "--listen", n.listen, "--cluster-listen", n.peers}
	if embedded {
		args = append(args, "--nats-listen", n.nats)
	}
	n.proc = start(c.t, "node "+n.name, exec.Command(exe, args...))
}

// holder waits until one of the other nodes lists the device at a node, and
// returns that; not is where it must not be.
func (c *cluster) holder(device string, ask *clusterNode, not string) *clusterNode {
	c.t.Helper()
	ctx := bounded(c.t)
	for ctx.Err() == nil {
		all, _ := c.client(ask).Devices(ctx)
		for _, d := range all {
			if d.Device == device && d.Node != not && d.Node != "" {
				return c.node(d.Node)
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	c.t.Fatalf("%s is at no node", device)
	return nil
}

// sure pushes with the id until a node says what became of it.
func (c *cluster) sure(ctx context.Context, p *admin.Push, at func() *clusterNode) (o *admin.Outcome, repeats int, err error) {
	for {
		o, err = c.client(at()).Push(ctx, p)
		var broken *admin.BrokenError
		var unreachable *admin.UnreachableError
		var outcome *admin.OutcomeError
		if err == nil || !errors.As(err, &broken) && !errors.As(err, &unreachable) &&
			(!errors.As(err, &outcome) || outcome.State != admin.Unavailable && outcome.State != admin.Timeout) {
			return o, repeats, err
		}
		repeats++
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return o, repeats, errors.Join(err, ctx.Err())
		}
	}
}
