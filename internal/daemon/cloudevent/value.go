package cloudevent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

type member struct {
	name  string
	value json.RawMessage
}

// object takes one JSON object apart. Unlike encoding/json by itself it does not
// take the last of two members of a name: another reader might take the first.
func object(data []byte) ([]member, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	if t, err := d.Token(); err != nil {
		return nil, err
	} else if t != json.Delim('{') {
		return nil, errors.New("want one object")
	}
	var all []member
	seen := map[string]bool{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		name, _ := t.(string) // a key always is
		if seen[name] {
			return nil, fmt.Errorf("%.40q comes twice", name)
		}
		if len(seen) > 2*maxAttributes {
			return nil, errors.New("too many members")
		}
		seen[name] = true
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, err
		}
		all = append(all, member{name, value})
	}
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	if d.More() || strings.TrimSpace(string(data[d.InputOffset():])) != "" {
		return nil, errors.New("something follows the object")
	}
	return all, nil
}

func text(raw json.RawMessage) (string, error) {
	var s *string
	if err := json.Unmarshal(raw, &s); err != nil || s == nil {
		return "", errors.New("want a string")
	}
	return *s, nil
}

// scalar is an attribute's value in its canonical string form; ok is false for
// null.
func scalar(raw json.RawMessage) (value string, ok bool, err error) {
	switch raw[0] {
	case 'n':
		return "", false, nil
	case 't', 'f':
		return string(raw), true, nil
	case '"':
		value, err = text(raw)
		return value, true, err
	case '{', '[':
		return "", false, errors.New("want a string, a whole number or true or false")
	}
	n, err := strconv.ParseInt(string(raw), 10, 32)
	if err != nil {
		return "", false, errors.New("want a whole number of 32 bits")
	}
	return strconv.FormatInt(n, 10), true, nil
}

// unescape takes the encoding off a header's value (HTTP binding, section
// 3.1.3.2): percent signs before two hex digits, and quotes.
func unescape(s string) (string, error) {
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' { // senders of version 0.3
		var b strings.Builder
		for i := 1; i < len(s)-1; i++ {
			if s[i] == '\\' && i+1 < len(s)-1 {
				i++
			}
			b.WriteByte(s[i])
		}
		s = b.String()
	}
	if !strings.Contains(s, "%") {
		return s, nil
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", errors.New("an incomplete percent encoding")
		}
		c, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
		if err != nil {
			return "", errors.New("a wrong percent encoding")
		}
		b.WriteByte(byte(c))
		i += 2
	}
	return b.String(), nil
}
