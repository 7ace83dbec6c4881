package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/atls-ws/atls-ws/internal/config"
)

// Flags that both roles have.
func roleFlags(sample string) []cli.Flag {
	return []cli.Flag{
		configFlag(sample),
		&cli.BoolFlag{Name: "check", Usage: "check the configuration and the files that it names, and exit"},
	}
}

func configFlag(sample string) cli.Flag {
	return &cli.StringFlag{Name: "config", Usage: "YAML `FILE`, see " + sample + "; flags override it", EnvVars: []string{"ATLS_WS_CONFIG"}}
}

func logFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "log-level", Usage: "debug, info, warn or error (default: info)", EnvVars: []string{"ATLS_WS_LOG_LEVEL"}},
		&cli.StringFlag{Name: "log-format", Usage: "text or json, on stderr (default: text)", EnvVars: []string{"ATLS_WS_LOG_FORMAT"}},
	}
}

// overlay sets the values of the flags that were given.
func overlay(c *cli.Context, values map[string]*string) {
	for flag, v := range values {
		if c.IsSet(flag) {
			*v = c.String(flag)
		}
	}
}

// invalid turns what is wrong with a configuration into an error in the words
// of the command line where no file was used. fields maps a field to its flag.
func invalid(c *cli.Context, fields map[string]string, readErr, err error) error {
	var read, found config.Problems
	if readErr != nil && !errors.As(readErr, &read) {
		return readErr
	}
	if err != nil && !errors.As(err, &found) {
		return err
	}
	said := map[string]bool{}
	for _, p := range read {
		said[p.Field] = true
	}
	for _, p := range found {
		if !said[p.Field] { // what could not be read is also missing
			read = append(read, p)
		}
	}
	if len(read) == 0 {
		return nil
	}
	if c.String("config") != "" {
		return read
	}
	var lines []error
	for _, p := range read {
		if flag := fields[p.Field]; flag != "" {
			p.Field = "--" + flag
		}
		lines = append(lines, usagef(c, "%w", p))
	}
	return errors.Join(lines...)
}

// pairs reads the name=value of a flag that can be given several times.
func pairs(c *cli.Context, flag string) (map[string]string, error) {
	m := map[string]string{}
	for _, s := range c.StringSlice(flag) {
		name, v, ok := strings.Cut(s, "=")
		if !ok || name == "" || v == "" {
			return nil, usagef(c, "--%s %q: want NAME=%s", flag, s, map[string]string{"on": "COMMAND", "service": "TARGET"}[flag])
		}
		if _, twice := m[name]; twice {
			return nil, usagef(c, "--%s %q: %s is given twice", flag, s, name)
		}
		m[name] = v
	}
	return m, nil
}

// checked says on stdout that a --check went well.
func checked(w io.Writer) error {
	_, err := fmt.Fprintln(w, "ok: the configuration is valid and its files can be used")
	return err
}

// shell quotes words for a POSIX shell.
func shell(words ...string) string {
	quoted := make([]string, len(words))
	for i, word := range words {
		quoted[i] = word
		if word == "" || strings.Trim(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@%+,=") != "" {
			quoted[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}
