package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// maxFile is far above any real configuration.
const maxFile = 1 << 20

// readFile reads the file at path; next says what to do when there is none.
func readFile(path, next string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, &FileError{File: path, Err: errNotThere, Next: next}
		}
		return nil, &FileError{File: path, Err: cause(err), Next: "make it readable for the user that runs this program"}
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
		return nil, &FileError{File: path, Err: cause(err), Next: "name a file that can be read"}
	case len(data) > maxFile:
		return nil, &FileError{File: path, Err: fmt.Errorf("over %d bytes long", maxFile), Next: "name the right file"}
	}
	return data, nil
}

// decode reads one YAML document into the struct that out points to. The error
// is a Problems; when it makes nothing of data as a whole, the source has no
// lines and out means nothing.
func decode(data []byte, file string, out any) (source, error) {
	d := decoder{source: source{file: file, lines: map[string]int{}}, at: map[position]value{}}
	var doc yaml.Node
	if err := yaml.Load(data, &doc); err != nil {
		if empty(err) {
			return d.source, nil
		}
		d.loadErrors(err)
	} else if len(doc.Content) == 1 && doc.Content[0].ShortTag() != "!!null" {
		d.walk(doc.Content[0], reflect.TypeOf(out).Elem(), "")
		d.loadErrors(doc.Decode(out))
	}
	if slices.ContainsFunc(d.found, func(p Problem) bool { return p.Field == "" }) {
		d.lines = nil
	}
	return d.source, d.found.err()
}

type decoder struct {
	source
	at    map[position]value // what stands where, to say which field an error is about
	found Problems
}

type position struct{ line, column int }

type value struct {
	field string
	typ   reflect.Type
}

// walk notes the position of every value. It reports the keys that typ does not
// have, and reports and removes those that a mapping has twice: the library
// would give up the whole mapping for them.
func (d *decoder) walk(n *yaml.Node, typ reflect.Type, field string) {
	d.at[position{n.Line, n.Column}] = value{field, typ}
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		n = n.Alias
	}
	if n.Kind == yaml.SequenceNode && typ.Kind() == reflect.Slice {
		for i, item := range n.Content {
			name := fmt.Sprintf("%s[%d]", field, i)
			d.lines[name] = item.Line
			d.walk(item, typ.Elem(), name)
		}
		return
	}
	if n.Kind != yaml.MappingNode || typ.Kind() != reflect.Struct && typ.Kind() != reflect.Map {
		return
	}
	first := map[string]int{}
	content := n.Content
	n.Content = nil
	for i := 0; i+1 < len(content); i += 2 {
		key, val := content[i], content[i+1]
		name := key.Value
		if field != "" {
			name = field + "." + key.Value
		}
		if line, ok := first[key.Value]; ok {
			d.add(key.Line, name, fmt.Sprintf("is already on line %d", line))
			continue
		}
		first[key.Value] = key.Line
		n.Content = append(n.Content, key, val)
		var sub reflect.Type
		if typ.Kind() == reflect.Map {
			sub = typ.Elem()
		} else {
			known := fields(typ)
			if sub = known[key.Value]; sub == nil {
				d.add(key.Line, name, "unknown key, want "+strings.Join(keys(known), ", "))
				continue
			}
		}
		d.lines[name] = key.Line
		if typ == reflect.TypeFor[Services]() {
			d.target(val, name)
		}
		if typ == reflect.TypeFor[Groups]() {
			d.group(val)
		}
		d.walk(val, sub, name)
	}
}

func (d *decoder) add(line int, field, text string) {
	d.found = append(d.found, Problem{File: d.file, Line: line, Field: field, Text: text})
}

func (d *decoder) loadErrors(err error) {
	var many *yaml.LoadErrors
	var one *yaml.LoadError
	switch {
	case err == nil:
	case errors.As(err, &many):
		for _, e := range many.Errors {
			d.loadError(e)
		}
	case errors.As(err, &one):
		d.loadError(one)
	default:
		d.add(0, "", err.Error())
	}
}

func (d *decoder) loadError(e *yaml.LoadError) {
	// The library's own words name Go types; say what is wanted instead.
	v, ok := d.at[position{e.Mark.Line, e.Mark.Column}]
	if ok && strings.HasPrefix(e.Message, "cannot construct") {
		d.add(e.Mark.Line, v.field, "want "+want(v.typ))
		return
	}
	d.add(e.Mark.Line, "", strings.TrimPrefix(e.Message, "yaml: "))
}

// want says in words what a value of typ is.
func want(typ reflect.Type) string {
	switch {
	case typ == reflect.TypeFor[time.Duration]():
		return "a duration such as 30s or 5m"
	case typ.Kind() == reflect.String:
		return "text"
	case typ.Kind() == reflect.Int, typ.Kind() == reflect.Int64:
		return "a whole number"
	case typ.Kind() == reflect.Bool:
		return "true or false"
	case typ.Kind() == reflect.Slice:
		return "a list such as [a, b]"
	case typ.Kind() == reflect.Map:
		return "a mapping of names to values"
	}
	return "a mapping with the keys " + strings.Join(keys(fields(typ)), ", ")
}

// fields returns the types of the keys of a struct.
func fields(typ reflect.Type) map[string]reflect.Type {
	m := map[string]reflect.Type{}
	for f := range typ.Fields() {
		if name := f.Tag.Get("yaml"); name != "" {
			m[name] = f.Type
		}
	}
	return m
}

// empty says whether err only means that there was nothing but comments.
func empty(err error) bool {
	var many *yaml.LoadErrors
	return errors.As(err, &many) && slices.ContainsFunc(many.Errors, func(e *yaml.LoadError) bool {
		return strings.HasSuffix(e.Message, "no documents in stream")
	})
}
