package admin

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"
)

const nodeTimeout = 5 * time.Second // to reach another node

// node is another daemon of the same fleet, at its listener for nodes.
type node struct {
	name, address string
	tls           *tls.Config
	is            func(tls.ConnectionState) (name string, err error)
}

// NewNode makes a client for the node of that name, at its listener for nodes;
// is tells the name in a certificate. It does no I/O.
func NewNode(name, address string, conf *tls.Config, is func(tls.ConnectionState) (string, error)) *Client {
	r := &Remote{url: "https://" + address, node: &node{name, address, conf, is}}
	return &Client{path: r.url, remote: r}
}

func (n *node) connect(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, nodeTimeout)
	defer cancel()
	conn, err := (&tls.Dialer{Config: n.tls}).DialContext(ctx, "tcp", n.address)
	if err != nil {
		return nil, err
	}
	if name, err := n.is(conn.(*tls.Conn).ConnectionState()); err != nil || name != n.name {
		_ = conn.Close()
		return nil, fmt.Errorf("%s is the node %s, not %s", n.address, name, n.name)
	}
	return conn, nil
}
