package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
)

// openError is what Open says; it must have a next step.
func openError(t *testing.T, c Config) (text, next string) {
	t.Helper()
	f, err := Open(t.Context(), c)
	if err == nil {
		_ = f.Close()
		t.Fatal("it opens")
	}
	var start *StartError
	if !errors.As(err, &start) || start.Next() == "" {
		t.Fatalf("no next step: %v", err)
	}
	return err.Error(), start.Next()
}

func TestTwoServersOnOneDirectory(t *testing.T) {
	s := newSite(t, false).start()
	if text, next := openError(t, s.cfg); !strings.Contains(text, fmt.Sprintf("in use by another server: process %d", os.Getpid())) || !strings.Contains(next, "--data") {
		t.Errorf("%s; %s", text, next)
	}
	id := s.to("d", "1") // the first is not disturbed
	if o := s.outcome(id); o.State != admin.Queued {
		t.Errorf("%+v", o)
	}
}

func TestUnreachableNATSIsSaid(t *testing.T) {
	s := newSite(t, false)
	s.cfg.NATS.URL = "nats://user:secret@127.0.0.1:1"
	if text, next := openError(t, s.cfg); !strings.Contains(text, "nats at nats://127.0.0.1:1: ") || strings.Contains(text, "secret") || !strings.Contains(next, "nats.url") {
		t.Errorf("%s; %s", text, next)
	}
	s.cfg.NATS.CA = "nosuch.pem"
	if text, _ := openError(t, s.cfg); !strings.Contains(text, "nosuch.pem") {
		t.Error(text)
	}
}

// A store that was changed behind the server's back is refused, not begun anew.
func TestADamagedStoreIsSaid(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, stream string){
		"no description": func(t *testing.T, stream string) {
			if err := os.WriteFile(filepath.Join(stream, "meta.inf"), []byte("{}"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"overwritten signals": func(t *testing.T, stream string) {
			_ = os.Remove(filepath.Join(stream, "msgs", "index.db")) // as after a crash
			block := filepath.Join(stream, "msgs", "1.blk")
			data := must[[]byte](t)(os.ReadFile(block))
			for i := range 200 {
				data[len(data)/2+i] ^= 0xff
			}
			if err := os.WriteFile(block, data, 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, false).start()
			for i := range 100 {
				s.to("d", fmt.Sprint(i))
			}
			s.stop()
			damage(t, filepath.Join(s.cfg.Dir, "nats", "jetstream", "$G", "streams", signalStream))
			if text, next := openError(t, s.cfg); !strings.Contains(text, s.cfg.Dir+" is damaged: SIGNALS") || !strings.Contains(next, "backup") {
				t.Errorf("%s; %s", text, next)
			}
		})
	}
}

func TestADiskThatIsNearlyFullRefusesAndRecovers(t *testing.T) {
	s := newSite(t, false).start()
	before := s.to("d", "1")
	s.f.store.reserve = 1 << 62 // more than there is
	_, err := s.f.Send(t.Context(), &Request{Target: Target{Device: "d"}, Name: "do"}, func(o admin.Outcome) { t.Errorf("told %+v", o) })
	var un *UnavailableError
	if !errors.As(err, &un) || !strings.Contains(err.Error(), "nearly full") || un.Next() == "" {
		t.Errorf("%v", err)
	}
	d := s.device("d")
	s.connect(d) // answers are taken all the same
	eventually(t, func() bool { return s.outcome(before).State == admin.Acked })
	s.f.store.reserve = 0
	s.to("d", "2")
	eventually(t, func() bool { return len(d.seen()) == 2 })
}

func TestNATSThatGoesAndComesBack(t *testing.T) {
	s := newSite(t, true).start()
	on, off := s.device("on"), s.device("off")
	s.connect(on)
	id := s.to("on", "0")
	eventually(t, func() bool { return s.outcome(id).State == admin.Acked })
	s.to("off", "0")

	// The device's answer finds NATS gone, and is kept.
	began, proceed := make(chan struct{}), make(chan struct{})
	on.cfg.Mux.OnSignal("slow", func(context.Context, client.Signal) (string, error) {
		close(began)
		<-proceed
		return "slowly", nil
	})
	slow, _ := s.send(&Request{Target: Target{Device: "on"}, Name: "slow"})
	<-began
	s.nd.kill()
	close(proceed)
	told := map[string]bool{}
	_, err := s.f.Send(t.Context(), &Request{Target: Target{Device: "on"}, Name: "do", Data: []byte("lost")}, func(o admin.Outcome) { told[o.State] = true })
	var un *UnavailableError
	if !errors.As(err, &un) || len(told) > 0 || un.Next() == "" {
		t.Errorf("%v, told %v", err, told)
	}
	s.nd.restart()
	var last string
	eventually(t, func() bool {
		var err error
		last, err = s.f.Send(t.Context(), &Request{Target: Target{Device: "on"}, Name: "do", Data: []byte("1")}, func(admin.Outcome) {})
		return err == nil
	})
	eventually(t, func() bool { return s.outcome(last).State == admin.Acked && s.outcome(slow).State == admin.Acked })
	if o := s.outcome(slow); o.Text != "slowly" {
		t.Errorf("%+v", o)
	}
	s.connect(off)
	eventually(t, func() bool { return len(off.seen()) == 1 })
	if got := on.seen(); !slices.Equal(got, []string{"0", "1"}) {
		t.Errorf("got %q", got)
	}
}

func TestAMissedBellIsNoticed(t *testing.T) {
	s := newSite(t, false).start()
	d := s.device("d")
	s.connect(d)
	eventually(t, func() bool { l := s.f.link("d"); l.mu.Lock(); defer l.mu.Unlock(); return !l.running })
	l := s.f.link("d")
	s.f.mu.Lock()
	delete(s.f.links, "d") // this bell rings at nobody
	s.f.mu.Unlock()
	s.to("d", "1")
	s.f.mu.Lock()
	s.f.links["d"] = l
	s.f.mu.Unlock()
	s.f.lastBell.Store(0) // and the next shows the gap
	s.to("other", "x")
	eventually(t, func() bool { return len(d.seen()) == 1 })
}

func TestSignalsOfDevicesAreStoredAndGoToTheirHook(t *testing.T) {
	type event struct {
		header http.Header
		body   string
	}
	events := make(chan event, 1)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		events <- event{r.Header, string(body)}
		if r.Header.Get("ce-type") == "web-no" {
			http.Error(w, "not now", http.StatusConflict)
			return
		}
		_, _ = io.WriteString(w, "seen\n")
	}))
	defer web.Close()
	everywhere(t, func(t *testing.T, s *site) {
		s.cfg.Hooks = []Hook{
			{Name: "run-*", Command: []string{"sh", "-c", `echo "$ATLS_DEVICE says $(cat)"`}},
			{Name: "bad", Command: []string{"sh", "-c", "echo broken >&2; exit 1"}},
			{Name: "web-*", URL: web.URL},
			{Name: "gone", URL: "http://127.0.0.1:1"},
		}
		s.start()
		d := s.device("pump.1")
		s.connect(d)
		for _, tc := range []struct{ name, reply, err string }{
			{"run-this", "pump.1 says data", ""},
			{"bad", "", "broken"},
			{"web-yes", "seen", ""},
			{"web-no", "", "not now"},
			{"gone", "", "does not answer"},
			{"nobody.listens", "", ""},
		} {
			reply, err := d.sess.Signal(t.Context(), client.Signal{Name: tc.name, ContentType: "text/x", Data: []byte("data")})
			var refused *client.RefusedError
			if reply != tc.reply || (tc.err == "") != (err == nil) || err != nil && (!errors.As(err, &refused) || !strings.Contains(refused.Text, tc.err)) {
				t.Errorf("%s: %q, %v", tc.name, reply, err)
			}
			if strings.HasPrefix(tc.name, "web-") {
				if e := <-events; e.body != "data" || e.header.Get("ce-source") != "/devices/pump.1" || e.header.Get("ce-specversion") != "1.0" ||
					len(e.header.Get("ce-id")) != 32 || e.header.Get("Content-Type") != "text/x" {
					t.Errorf("%+v", e)
				}
			}
		}
		if all := must[[]string](t)(subjects(t, s)); !slices.Contains(all, "cloud.pump=2E1.nobody=2Elistens") || len(all) != 6 {
			t.Errorf("%q", all)
		}
	})
}

func subjects(t *testing.T, s *site) (all []string, err error) {
	msgs, err := s.f.store.fetch(t.Context(), cloudStream, cloudSubject+".*.*", 1, 100)
	for _, m := range msgs {
		all = append(all, m.Subject)
	}
	return all, err
}

func TestCertificateGroupsReachADeviceThatIsOffline(t *testing.T) {
	s := newSite(t, false).start()
	s.f.known.put(deviceRecord{Device: "d", Groups: []string{"valves"}, LastSeen: time.Now()})
	eventually(t, func() bool { seen, _ := s.f.Seen(t.Context(), "d"); return seen })
	if _, said := s.send(&Request{Target: Target{Group: "valves"}, Name: "do"}); len(said) != 1 {
		t.Errorf("%+v", said)
	}
	if seen, err := s.f.Seen(t.Context(), "never"); seen || err != nil {
		t.Error(seen, err)
	}
}
