package config

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	File  string // empty when the value did not come from a file
	Line  int    // 0 when unknown
	Field string // dotted, as in inner.cert; empty for the file as a whole
	Text  string
}

// Error says "file:line: field: text", less what is unknown.
func (p Problem) Error() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d", p.Line)
		}
		b.WriteString(": ")
	}
	if p.Field != "" {
		b.WriteString(p.Field + ": ")
	}
	return b.String() + p.Text
}

// Problems is everything that is wrong with a configuration, in the order of
// its lines. It is never empty.
type Problems []Problem

// Error has one line a problem.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

func (ps Problems) err() error {
	if len(ps) == 0 {
		return nil
	}
	slices.SortStableFunc(ps, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
	return ps
}

// sorted merges the Problems that were joined in err. A field that could not be
// read is not also reported for the value that it therefore lacks.
func sorted(err error) error {
	var all Problems
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return err
	}
	seen := map[string]bool{}
	for _, e := range joined.Unwrap() {
		var ps Problems
		if !errors.As(e, &ps) {
			return err
		}
		// One place can have two unknown keys, so only a later list is filtered.
		var fields []string
		for _, p := range ps {
			if p.Field == "" || !covered(seen, p.Field) {
				all = append(all, p)
			}
			fields = append(fields, p.Field)
		}
		for _, f := range fields {
			seen[f] = true
		}
	}
	return all.err()
}

// covered says whether field or one that it is part of is in seen.
func covered(seen map[string]bool, field string) bool {
	for {
		if seen[field] {
			return true
		}
		i := strings.LastIndexByte(field, '.')
		if i < 0 {
			return false
		}
		field = field[:i]
	}
}

// source remembers where the fields of a configuration stand in its file.
type source struct {
	file  string
	lines map[string]int // by dotted field
}

// line returns the line of field, or of the nearest thing that it is part of.
func (s source) line(field string) int {
	for field != "" {
		if n, ok := s.lines[field]; ok {
			return n
		}
		field = field[:max(strings.LastIndexAny(field, ".["), 0)]
	}
	return 0
}

// rebase makes paths relative to dir, except what is absolute or empty.
func rebase(dir string, paths ...*string) {
	for _, p := range paths {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
}
