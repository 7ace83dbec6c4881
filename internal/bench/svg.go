//go:build unix

package main

import (
	"fmt"
	"html"
)

// bar is one of a group in a picture.
type bar struct {
	group, name string
	value       float64
}

var colors = map[string]string{double: "#8a8f98", naive: "#d08770", ours: "#2f6f9f"}

// picture draws horizontal bars, grouped, as SVG.
func (o *options) picture(file, title string, bars []bar) error {
	if len(bars) == 0 {
		return nil
	}
	w, err := o.create(file)
	if err != nil {
		return err
	}
	const left, width, line = 210, 420, 16
	largest := 0.0
	for _, b := range bars {
		largest = max(largest, b.value)
	}
	height := 44
	for i, b := range bars {
		if i == 0 || bars[i-1].group != b.group {
			height += 10
		}
		height += line
	}
	_, _ = fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="11">`+"\n", left+width+150, height)
	_, _ = fmt.Fprintf(w, `<rect width="100%%" height="100%%" fill="#fff"/><text x="10" y="20" font-size="14">%s</text>`+"\n", html.EscapeString(title))
	y := 32
	for i, b := range bars {
		if i == 0 || bars[i-1].group != b.group {
			y += 10
			_, _ = fmt.Fprintf(w, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", left-8, y+line-4, html.EscapeString(b.group))
		}
		color := colors[b.name]
		if color == "" {
			color = "#5b7f5b"
		}
		long := max(1, int(b.value/largest*width))
		_, _ = fmt.Fprintf(w, `<rect x="%d" y="%d" width="%d" height="%d" fill="%s"/><text x="%d" y="%d">%s %s</text>`+"\n",
			left, y, long, line-3, color, left+long+5, y+line-5, number(b.value, true), html.EscapeString(b.name))
		y += line
	}
	_, _ = fmt.Fprintln(w, "</svg>")
	return w.Close()
}
