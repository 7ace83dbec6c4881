package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"

	"github.com/atls-ws/atls-ws/internal/pki"
)

// nodeWord in a path stands for the node's name, so that one file serves all nodes.
const nodeWord = "{node}"

// Cluster makes this server one node of several that share their NATS. Empty: it
// is alone.
type Cluster struct {
	// Node is the name of this one; no two nodes have the same. Required.
	Node string `yaml:"node"`
	// Listen is the address at which the other nodes reach devices that are
	// connected here. Required.
	Listen string `yaml:"listen"`
	// Advertise is host:port as the other nodes reach Listen; empty: Listen itself.
	Advertise string `yaml:"advertise"`
	// Cert and Key are the PEM files of the node's certificate, as "atls-ws pki node"
	// makes it, CA those of the authorities that vouch for nodes. Required.
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	CA   string `yaml:"ca"`
}

// NATSCluster makes the NATS inside the servers one cluster.
type NATSCluster struct {
	// Name is the cluster's, the same on all nodes.
	Name string `yaml:"name"`
	// Listen is where the NATS of other nodes connects, with the certificates of
	// Cluster. Empty: there is no such cluster.
	Listen string `yaml:"listen"`
	// Advertise is host:port as they reach it; empty: NATS finds out.
	Advertise string `yaml:"advertise"`
	// Routes are nats://host:port of all nodes; a node's own does not harm.
	Routes []string `yaml:"routes"`
}

// ForNode puts the node's name where a path says {node}. It is called when Node
// is known, before Validate.
func (s *Server) ForNode() {
	if s.Cluster.Node == "" {
		return
	}
	for _, p := range []*string{&s.Cluster.Advertise, &s.NATS.Cluster.Advertise, &s.Cluster.Cert, &s.Cluster.Key, &s.Data, &s.Admin, &s.Inner.Cert, &s.Inner.Key, &s.Outer.Cert, &s.Outer.Key, &s.Audit} {
		*p = strings.ReplaceAll(*p, nodeWord, s.Cluster.Node)
	}
}

// On says whether the server is a node of several.
func (c *Cluster) On() bool { return *c != Cluster{} }

// TLS loads the files of a node: for both ends of connections between nodes, of
// which each must have a certificate of a node.
func (c *Cluster) TLS() (*tls.Config, error) {
	const next = "make one with \"atls-ws pki node NAME\" where the CA is, and copy it here"
	cert, certErr := loadPair(c.Cert, c.Key, next)
	roots, rootsErr := loadPool(c.CA, "name the authority that has issued the nodes' certificates", nil)
	if err := errors.Join(certErr, rootsErr); err != nil {
		return nil, err
	}
	switch name, err := pki.NodeName(cert.Leaf); {
	case err != nil:
		return nil, &FileError{File: c.Cert, Err: err, Next: next}
	case name != c.Node:
		return nil, &FileError{File: c.Cert, Err: errors.New("it is the certificate of the node " + name + ", not of " + c.Node), Next: next}
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert},
		RootCAs: roots, ServerName: pki.NodeServerName,
		ClientCAs: roots, ClientAuth: tls.RequireAndVerifyClientCert,
		VerifyConnection: func(s tls.ConnectionState) error {
			_, err := pki.NodeName(peerLeaf(s)) // the authority may vouch for devices too
			return err
		},
	}, nil
}

func peerLeaf(s tls.ConnectionState) *x509.Certificate {
	if len(s.PeerCertificates) == 0 {
		return nil
	}
	return s.PeerCertificates[0]
}

func (c *check) cluster(s *Server) {
	k, n := s.Cluster, s.NATS.Cluster
	if k.On() {
		if c.required("cluster.node", k.Node) && (len(k.Node) > 64 || strings.Trim(k.Node, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "") {
			c.add("cluster.node", quoted(k.Node)+"is not a name of letters, digits, - and _")
		}
		c.address("cluster.listen", k.Listen)
		if k.Advertise != "" {
			c.address("cluster.advertise", k.Advertise)
		}
		if host, _, err := net.SplitHostPort(k.Listen); err == nil && k.Advertise == "" && (host == "" || net.ParseIP(host).IsUnspecified()) {
			c.add("cluster.advertise", "missing: cluster.listen says every address, and the other nodes need one")
		}
		c.required("cluster.cert", k.Cert)
		c.required("cluster.key", k.Key)
		c.required("cluster.ca", k.CA)
		if s.NATS.URL == "" && n.Listen == "" {
			c.add("cluster", "the nodes share their NATS: name it as nats.url, or make it of them with nats.cluster")
		}
	}
	if n.Listen == "" {
		if n.Name != "" || n.Advertise != "" || len(n.Routes) > 0 {
			c.required("nats.cluster.listen", n.Listen)
		}
		return
	}
	c.address("nats.cluster.listen", n.Listen)
	if n.Advertise != "" {
		c.address("nats.cluster.advertise", n.Advertise)
	}
	c.required("nats.cluster.name", n.Name)
	if len(n.Routes) == 0 {
		c.add("nats.cluster.routes", "missing: name the other nodes, such as nats://node-b:6222")
	}
	for _, r := range n.Routes {
		c.url("nats.cluster.routes", r, "nats", "tls")
	}
	if s.NATS.URL != "" {
		c.add("nats.cluster", "NATS is elsewhere, at nats.url, or inside the servers: not both")
	}
	if !k.On() {
		c.add("nats.cluster", "goes with cluster, whose certificates it uses")
	}
}
