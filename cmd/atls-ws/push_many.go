//go:build !device

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/urfave/cli/v2"

	"github.com/atls-ws/atls-ws/internal/daemon/admin"
)

// maxSaid is how many devices' failures are printed.
const maxSaid = 20

// pushMany sends to a group or all devices, and shows how far it has come.
func pushMany(c *cli.Context, p *admin.Push) error {
	enc := json.NewEncoder(c.App.Writer)
	show := newProgress(c.App.ErrWriter)
	failed := map[string]string{}
	sum, err := adminClient(c).PushMany(c.Context, p, func(o admin.Outcome) {
		if c.Bool("json") {
			_ = enc.Encode(admin.Progress{Outcome: &o}) // an error comes again at the end
		} else {
			show.count(&o)
		}
		delete(failed, o.Device)
		if o.Final() && o.State != admin.Acked {
			failed[o.Device] = o.String()
		}
	})
	show.done()
	if err != nil {
		return explainPush(c, err, p)
	}
	if c.Bool("json") {
		err = enc.Encode(admin.Progress{Summary: sum})
	} else {
		_, err = fmt.Fprintf(c.App.Writer, "%s\nsignal %s\n", counts(sum.Devices, sum.Counts), sum.ID)
		for i, device := range slices.Sorted(maps.Keys(failed)) {
			if i == maxSaid {
				_, _ = fmt.Fprintf(c.App.ErrWriter, "and %d more\n", len(failed)-maxSaid)
				break
			}
			_, _ = fmt.Fprintf(c.App.ErrWriter, "%s: %s\n", device, cell(failed[device]))
		}
	}
	next := "atls-ws signals show " + sum.ID
	good := sum.Counts[admin.Acked]
	if p.NoWait {
		good += sum.Counts[admin.Queued] + sum.Counts[admin.Delivered]
	}
	switch {
	case err != nil:
		return err
	case sum.Error != "":
		return withNext(errors.New("not every device has been reached: "+sum.Error), "push it again with --id "+sum.ID+" when this is mended: no device handles it twice")
	case sum.Devices == 0:
		return withNext(errors.New("there is no such device yet"), "a device is known when it was connected once: atls-ws devices")
	case good < sum.Devices && p.NoWait:
		return withNext(fmt.Errorf("it is not queued for %d of %d devices", sum.Devices-good, sum.Devices), next)
	case good < sum.Devices:
		return withNext(fmt.Errorf("%d of %d devices have not acked it", sum.Devices-good, sum.Devices), "see what becomes of it with: "+next)
	}
	return nil
}

// counts says "3 devices: 2 acked, 1 queued".
func counts(devices int, by map[string]int) string {
	var parts []string
	for _, state := range slices.Sorted(maps.Keys(by)) {
		parts = append(parts, fmt.Sprintf("%d %s", by[state], state))
	}
	if devices == 1 {
		return "1 device: " + strings.Join(parts, ", ")
	}
	return fmt.Sprintf("%d devices: %s", devices, strings.Join(parts, ", "))
}

// progress shows a fan-out: a bar on a terminal, and elsewhere a line every two
// seconds.
type progress struct {
	out   io.Writer
	bar   *progressbar.ProgressBar
	by    map[string]int
	state map[string]string
	said  time.Time
}

func newProgress(w io.Writer) *progress {
	p := &progress{out: w, by: map[string]int{}, state: map[string]string{}, said: time.Now()}
	if f, ok := w.(*os.File); ok && isTerminal(f) {
		p.bar = progressbar.NewOptions(-1, progressbar.OptionSetWriter(w), progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionShowCount(), progressbar.OptionClearOnFinish(), progressbar.OptionSetDescription("answered"))
	}
	return p
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func (p *progress) count(o *admin.Outcome) {
	if was, ok := p.state[o.Device]; ok {
		p.by[was]--
		if p.by[was] == 0 {
			delete(p.by, was)
		}
	}
	p.state[o.Device] = o.State
	p.by[o.State]++
	switch {
	case p.bar != nil:
		p.bar.ChangeMax(len(p.state))
		_ = p.bar.Set(len(p.state) - p.by[admin.Queued] - p.by[admin.Delivered])
	case time.Since(p.said) > 2*time.Second:
		_, _ = fmt.Fprintln(p.out, counts(len(p.state), p.by))
		p.said = time.Now()
	}
}

func (p *progress) done() {
	if p.bar != nil {
		_ = p.bar.Finish()
	}
}
