package main

import "strings"

// cell is what a device said of itself, as it may be printed in a table.
func cell(s string) string {
	s = strings.NewReplacer("\n", "?", "\t", "?").Replace(printable(s))
	if len(s) > 120 {
		s = strings.ToValidUTF8(s[:117], "") + "..."
	}
	return s
}

// printable is a device's text without what would drive a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}
