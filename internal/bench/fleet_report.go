//go:build unix

package main

import "fmt"

func (r *report) writeFleet() error {
	w, err := r.o.create("fleet.md")
	if err != nil {
		return err
	}
	r.o.head(w, "A server with many devices")
	_, _ = fmt.Fprintf(w, "A server process of its own with %d sessions over loopback, post-quantum key exchange inside. Per device.\n", r.o.devices)
	_, _ = fmt.Fprintf(w, "Memory is what the process holds beyond an empty server, %s after the named event; RSS after the runtime has\n", r.o.pause)
	_, _ = fmt.Fprint(w, "returned what is free, \"as it stands\" before. `ws` is behind a terminator that does the outer TLS.\n\n")
	_, _ = fmt.Fprint(w, "| stack | state | RSS KiB | as it stands KiB | heap KiB | stack KiB | goroutines |\n|---|---|---:|---:|---:|---:|---:|\n")
	units := []string{"RSS KiB", "as it stands KiB", "heap KiB", "stack KiB", "goroutines"}
	titles := map[string]string{"fresh": "fresh", "signal": "after one signal", "traffic": "after 256 KiB both ways"}
	var bars []bar
	for _, x := range r.rows {
		for _, phase := range []string{"fresh", "signal", "traffic"} {
			rss, ok := x.median(phase, "RSS KiB")
			if !ok {
				continue
			}
			bars = append(bars, bar{group: titles[phase], name: x.name, value: rss})
			_, _ = fmt.Fprintf(w, "| %s | %s |", x.name, titles[phase])
			for _, u := range units {
				_, _ = fmt.Fprintf(w, " %s |", number(x.median(phase, u)))
			}
			_, _ = fmt.Fprintln(w)
		}
	}
	_, _ = fmt.Fprintf(w, "\nConnects: medians of %d alternating rounds. Devices of atls-ws resume when they connect again.\n\n", r.o.rounds)
	_, _ = fmt.Fprint(w, "| stack | the server's CPU per connect, ms | and per reconnect, ms |\n|---|---:|---:|\n")
	for _, x := range r.rows {
		_, _ = fmt.Fprintf(w, "| %s | %s | %s |\n", x.name, number(x.median("connect", "CPU ms")), number(x.median("reconnect", "CPU ms")))
	}
	if err := w.Close(); err != nil {
		return err
	}
	return r.o.picture("fleet.svg", "RSS per idle device, KiB", byGroup(bars))
}

// byGroup puts the bars of a group together, in the order of their first ones.
func byGroup(bars []bar) (sorted []bar) {
	done := map[string]bool{}
	for _, b := range bars {
		if done[b.group] {
			continue
		}
		done[b.group] = true
		for _, c := range bars {
			if c.group == b.group {
				sorted = append(sorted, c)
			}
		}
	}
	return sorted
}
