package pki

import (
	"errors"
	"fmt"
)

// maxID is the longest common name that X.520 allows.
const maxID = 64

// CheckID says whether id can name a device: 1 to 64 letters, digits, '.',
// '_' and '-', the first a letter or digit. An id is part of a file name and
// of a URI, so both must take it as it is.
func CheckID(id string) error {
	switch {
	case id == "":
		return errors.New("the device id is empty")
	case len(id) > maxID:
		return fmt.Errorf("the device id is %d bytes long, over the limit of %d", len(id), maxID)
	}
	for i := range len(id) {
		c := id[i]
		alnum := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if alnum || i > 0 && (c == '.' || c == '_' || c == '-') {
			continue
		}
		return fmt.Errorf("device id %q: want letters, digits, '.', '_' and '-', beginning with a letter or digit", id)
	}
	return nil
}
