package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/atls-ws/atls-ws/internal/config"
)

// withNext adds the next step to an error: what the person who reads it can do.
// A nil error stays nil.
func withNext(err error, next string) error {
	if err == nil {
		return nil
	}
	return &nextError{err, next}
}

type nextError struct {
	err  error
	next string
}

func (e *nextError) Error() string { return e.err.Error() }
func (e *nextError) Unwrap() error { return e.err }
func (e *nextError) Next() string  { return e.next }

// usageError is a command line that makes no sense: exit code 2.
type usageError struct {
	err  error
	next string
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }
func (e *usageError) Next() string  { return e.next }

// report writes err, each of its parts with its next step, and returns the
// exit code.
func report(w io.Writer, err error) int {
	if err == nil {
		return 0
	}
	last := ""
	for _, part := range parts(err) {
		message, next := words(part)
		if last != "" && next != last {
			_, _ = fmt.Fprintf(w, "  next: %s\n", last)
		}
		_, _ = fmt.Fprintf(w, "atls-ws: %s\n", message)
		last = next
	}
	if last != "" {
		_, _ = fmt.Fprintf(w, "  next: %s\n", last)
	}
	var usage *usageError
	var exit cli.ExitCoder
	switch {
	case errors.As(err, &usage):
		return 2
	case errors.As(err, &exit) && exit.ExitCode() > 1:
		return 2
	}
	return 1
}

// parts takes errors.Join apart, and a configuration's problems.
func parts(err error) []error {
	var all []error
	switch e := err.(type) { //nolint:errorlint // a wrapper has its own words
	case config.Problems:
		for _, p := range e {
			all = append(all, withNext(p, "correct this, then try it with --check"))
		}
		return all
	case interface{ Unwrap() []error }:
		var lines []string
		for _, part := range e.Unwrap() {
			lines = append(lines, part.Error())
			all = append(all, parts(part)...)
		}
		if err.Error() == strings.Join(lines, "\n") { // not the %w of fmt.Errorf
			return all
		}
	}
	return []error{err}
}

// words gives an error's message and its next step, if it has one.
func words(err error) (message, next string) {
	message = err.Error()
	var file *config.FileError
	var exit cli.ExitCoder
	var step interface{ Next() string }
	switch {
	case errors.As(err, &step):
		return message, step.Next()
	case errors.As(err, &file):
		return fmt.Sprintf("%s: %v", file.File, file.Err), file.Next
	case errors.As(err, &exit):
		if first, rest, ok := strings.Cut(message, "\n"); ok {
			return first, strings.TrimPrefix(rest, "next: ")
		}
		return message, "see atls-ws --help"
	case errors.Is(err, context.Canceled):
		return "interrupted", ""
	}
	return message, ""
}
