package est

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"
)

// CheckSet says what is wrong with certificates that are to be served as
// anchors, whatever the time is: nil when they are CAs, each one once, up to
// their roots, and fit into an answer.
func CheckSet(certs []*x509.Certificate) error {
	if slices.Contains(certs, nil) {
		return errors.New("a certificate is nil")
	}
	if _, err := EncodeBody(certs); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, c := range certs {
		if seen[string(c.Raw)] {
			return fmt.Errorf("%s: is there twice", name(c))
		}
		seen[string(c.Raw)] = true
		if err := checkAnchor(c, certs); err != nil {
			return fmt.Errorf("%s: %w", name(c), err)
		}
	}
	return nil
}

// CheckBundle is CheckSet for the end that is to trust them: each must be valid
// at the time now too.
func CheckBundle(certs []*x509.Certificate, now time.Time) error {
	if err := CheckSet(certs); err != nil {
		return err
	}
	for _, c := range certs {
		if err := checkDates(c, now); err != nil {
			return fmt.Errorf("%s: %w", name(c), err)
		}
	}
	return nil
}

// Current is the certificates that are valid at the time now.
func Current(certs []*x509.Certificate, now time.Time) (current []*x509.Certificate) {
	for _, c := range certs {
		if checkDates(c, now) == nil {
			current = append(current, c)
		}
	}
	return current
}

func name(c *x509.Certificate) string { return fmt.Sprintf("%q", c.Subject) }

func checkDates(c *x509.Certificate, now time.Time) error {
	switch {
	case now.Before(c.NotBefore):
		return fmt.Errorf("not valid before %s, and the clock says %s", c.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case now.After(c.NotAfter):
		return fmt.Errorf("expired on %s", c.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

func checkAnchor(c *x509.Certificate, set []*x509.Certificate) error {
	switch {
	case !c.BasicConstraintsValid || !c.IsCA:
		return errors.New("not a CA certificate")
	case c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
		return errors.New("its key usage forbids it to sign certificates")
	}
	// Chain building never looks at the signature of a root: one with a changed
	// byte would do as well. An intermediate authority needs its root beside it,
	// as it does for many a TLS library.
	for _, issuer := range set {
		if string(c.RawIssuer) != string(issuer.RawSubject) {
			continue
		}
		err := c.CheckSignatureFrom(issuer)
		var insecure x509.InsecureAlgorithmError
		if err == nil || issuer == c && errors.As(err, &insecure) { // SHA-1 on an old root proves nothing either way
			return nil
		}
	}
	if string(c.RawIssuer) == string(c.RawSubject) {
		return errors.New("its own signature is wrong")
	}
	return fmt.Errorf("neither a root nor together with its issuer %q", c.Issuer)
}
