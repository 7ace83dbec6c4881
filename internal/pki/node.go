package pki

import (
	"crypto/x509"
	"errors"
	"net/url"
	"strings"
	"time"
)

// NodeServerName is the name in the certificate of every node, for which the
// other nodes ask.
const NodeServerName = "atls-ws-node"

// NodeURN is the prefix of the URI that makes a certificate that of a node.
const NodeURN = "urn:atls-ws:node:"

// NodeFile returns the name of the pair of a node.
func NodeFile(name string) string { return "node-" + name }

// Node issues the certificate of a node, for both ends of connections between
// nodes. validity is as for Server.
func (ca *CA) Node(name string, validity time.Duration) (*Pair, error) {
	if err := CheckID(name); err != nil {
		return nil, err
	}
	uri, err := url.Parse(NodeURN + name)
	if err != nil {
		return nil, err
	}
	t := leaf(validity)
	t.Subject.CommonName = name
	t.URIs, t.DNSNames = []*url.URL{uri}, []string{NodeServerName}
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	return issue(t, ca)
}

// NodeName is the name of the node whose certificate it is.
func NodeName(c *x509.Certificate) (string, error) {
	if c != nil {
		for _, u := range c.URIs {
			if name, ok := strings.CutPrefix(u.String(), NodeURN); ok && name != "" {
				return name, nil
			}
		}
	}
	return "", errors.New("the certificate is not that of a node")
}
