package config

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/atls-ws/atls-ws/internal/est"
)

// AnchorSets loads the files of Anchors, by the names of the sets. It reports
// everything that is wrong with them, as Problems.
func (s *Server) AnchorSets() (map[string][]*x509.Certificate, error) {
	c := check{src: s.src}
	sets := map[string][]*x509.Certificate{}
	for _, name := range keys(s.Anchors) {
		file := s.Anchors[name]
		certs, err := loadAnchors(file, time.Now())
		if err != nil {
			c.add("anchors."+name, fmt.Sprintf("%s: %v", file, err))
		}
		sets[name] = certs
	}
	return sets, c.err()
}

func loadAnchors(file string, now time.Time) (certs []*x509.Certificate, err error) {
	data, err := readFile(file, "")
	if fe := (*FileError)(nil); errors.As(err, &fe) {
		return nil, fe.Err
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("holds a %s: only certificates belong into it", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, c)
	}
	switch {
	case len(certs) == 0 && bytes.HasPrefix(data, []byte{0x30}):
		return nil, errors.New("is not PEM: convert it with openssl x509 -inform DER")
	case len(certs) == 0:
		return nil, errors.New("has no PEM block \"CERTIFICATE\"")
	}
	if err := est.CheckSet(certs); err != nil {
		return nil, err
	}
	if est.Current(certs, now) == nil {
		return nil, errors.New("no certificate in it is valid at this time")
	}
	return certs, nil
}
