package config

import (
	"cmp"
	"crypto/x509"
	"slices"
	"time"
)

// Expiry is when something that a file holds ends.
type Expiry struct {
	What string // such as inner.cert
	File string
	Name string // the certificate's subject, or the CRL's issuer
	End  time.Time
	CRL  bool
	Next string // what to do about it
}

// Expiries are the ends of what the server's files hold, the soonest first. What
// cannot be read is left out.
func (s *Server) Expiries() (all []Expiry) {
	add := func(what, file, next string) {
		certs, err := loadCerts(file, next)
		if file == "" || err != nil {
			return
		}
		if what == "inner.cert" || what == "outer.cert" || what == "console.cert" {
			all = append(all, soonest(what, file, next, certs))
			return
		}
		for _, c := range certs {
			all = append(all, expiry(what, file, next, c))
		}
	}
	add("inner.cert", s.Inner.Cert, nextServer)
	add("inner.client_ca", s.Inner.ClientCA, "add the authority's successor to the file, and let devices renew their certificates under it")
	add("outer.cert", s.Outer.Cert, nextOuter)
	add("console.cert", s.Console.Cert, nextOuter)
	add("console.clients_ca", s.Console.ClientsCA, "add the authority's successor to the file")
	for _, name := range keys(s.Anchors) {
		add("anchors."+name, s.Anchors[name], "get the successor from the owner of the network and add it to the file")
	}
	if _, lists, _ := s.loadClients(); lists != nil {
		for _, l := range lists {
			if !l.NextUpdate.IsZero() {
				all = append(all, Expiry{What: "inner.crl", Name: l.Issuer.String(), End: l.NextUpdate, CRL: true, Next: nextCRL})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b Expiry) int { return a.End.Compare(b.End) })
	return all
}

// Expiries are the ends of what the device's files hold, the soonest first.
func (d *Device) Expiries() (all []Expiry) {
	if certs, err := loadCerts(d.Inner.Cert, nextDevice); err == nil {
		all = append(all, soonest("inner.cert", d.Inner.Cert, nextDevice, certs))
	}
	if certs, err := loadCerts(d.Inner.CA, nextCA); err == nil {
		for _, c := range certs {
			all = append(all, expiry("inner.ca", d.Inner.CA, "add the authority's successor to the file", c))
		}
	}
	slices.SortStableFunc(all, func(a, b Expiry) int { return a.End.Compare(b.End) })
	return all
}

// soonest is about a chain, which ends with its first certificate that does.
func soonest(what, file, next string, chain []*x509.Certificate) Expiry {
	return expiry(what, file, next, slices.MinFunc(chain, func(a, b *x509.Certificate) int { return cmp.Compare(a.NotAfter.Unix(), b.NotAfter.Unix()) }))
}

func expiry(what, file, next string, c *x509.Certificate) Expiry {
	return Expiry{What: what, File: file, Name: c.Subject.String(), End: c.NotAfter, Next: next}
}
