//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/atls-ws/atls-ws/internal/child"
)

const bulk = 4 << 20 // bytes, each way

// TestPathThroughRealBoxes is the main job, through each kind of box.
func TestPathThroughRealBoxes(t *testing.T) {
	for _, b := range boxes {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			program := b.find(t)
			s := newSite(t).serve(!b.plain)
			h := b.start(t, s, program)
			j := startJob(s, h)
			d := s.ready()
			if d.Carrier != b.carrier {
				t.Errorf("carrier %q, want %q", d.Carrier, b.carrier)
			}
			if len(d.Outer.Chain) == 0 || !strings.Contains(d.Outer.Chain[0].Issuer, h.issuer) || d.Outer.Verified {
				t.Errorf("outer report %+v, want an unverified certificate of %q", d.Outer, h.issuer)
			}
			if d.Outer.TLSVersion == "" || h.tls != "" && d.Outer.TLSVersion != h.tls {
				t.Errorf("outer TLS %q, want %q", d.Outer.TLSVersion, h.tls)
			}
			if d.Outer.Intercepted != b.intercepts {
				t.Errorf("intercepted: %v, want %v", d.Outer.Intercepted, b.intercepts)
			}
			j.do()
		})
	}
}

// TestDeviceComesBackAfterACrash of the server, which had told it nothing; and
// does not keep the next one from stopping.
func TestDeviceComesBackAfterACrash(t *testing.T) {
	for _, carrier := range []string{"websocket", "post"} {
		t.Run(carrier, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.listen = "127.0.0.1:" + freePort(t)
			s.serve(true)
			startDevice(t, s, "--carrier", carrier)
			before := s.ready()
			s.write(syscall.Kill(s.server.PID(), syscall.SIGKILL))
			<-s.server.Done()
			s.serve(true)
			after := s.ready()
			if after.Session == before.Session || after.Carrier != carrier {
				t.Errorf("first %+v, then %+v", before, after)
			}
			s.server.Stop(grace) // in order now: the device is asked to go, and goes
			if code := s.server.ExitCode(); code != 0 {
				t.Errorf("the server ended with exit %d", code)
			}
			contains(t, s.server.Log(), "msg=stopped")
		})
	}
}

// job is the main job: a device that handles signals and offers services.
type job struct {
	s          *site
	device     *child.Child
	sent, want []byte
	got        chan [sha256.Size]byte
}

// startJob starts the device that does it.
func startJob(s *site, h hop) *job {
	s.t.Helper()
	j := &job{s: s, sent: pseudoRandom(1), want: pseudoRandom(2), got: make(chan [sha256.Size]byte, 1)}
	args := s.deviceArgs(h.url, "--service", "web="+webPage(s.t), "--service", "bulk=tcp://"+bulkService(s.t, j.got, j.want),
		"--on", "display=sh "+handler(s))
	if h.proxy != "" {
		args = append(args, "--proxy", h.proxy)
	}
	cmd := exec.Command(exe, append(args, h.args...)...)
	cmd.Env = append(os.Environ(), h.env...)
	j.device = start(s.t, "device", cmd)
	return j
}

// do sends a signal, and uses the services, with the bulk of bytes each way.
func (j *job) do() {
	t, admin := j.s.t, j.s.admin()
	t.Helper()
	ack := must(t, strings.NewReader("hello pump"), "push", "--admin", admin, deviceID, "display", "-")
	if strings.TrimSpace(string(ack)) != "showing: hello pump" {
		t.Errorf("ack %q", ack)
	}
	page := must(t, strings.NewReader("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), "dial", "--admin", admin, deviceID, "web")
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(page)), nil)
	if err != nil {
		t.Fatalf("the page: %v in %q", err, page)
	}
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "pump page" {
		t.Errorf("the page: %q, %v", body, err)
	}
	down := must(t, bytes.NewReader(j.sent), "dial", "--admin", admin, deviceID, "bulk")
	if sha256.Sum256(down) != sha256.Sum256(j.want) {
		t.Errorf("%d bytes came from the device, want %d with the same sum", len(down), len(j.want))
	}
	select {
	case got := <-j.got:
		if got != sha256.Sum256(j.sent) {
			t.Error("the device's service got other bytes than were sent")
		}
	case <-bounded(t).Done():
		t.Error("the device's service got no end of the bytes")
	}
}

func pseudoRandom(seed byte) []byte {
	b := make([]byte, bulk)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// handler writes the script that the device runs for a signal.
func handler(s *site) string {
	s.write(os.WriteFile(s.file("handler.sh"), []byte("text=$(cat)\necho \"$ATLS_SIGNAL_NAME: not the last line\"\necho \"showing: $text\"\n"), 0o755))
	return s.file("handler.sh")
}

func webPage(t *testing.T) string {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "pump page") }))
	t.Cleanup(srv.Close)
	return srv.URL
}

// bulkService takes connections, sums what comes until the end of that
// direction, and only then answers.
func bulkService(t *testing.T, sum chan<- [sha256.Size]byte, answer []byte) string {
	return accept(t, nil, func(c net.Conn) {
		_ = c.SetDeadline(time.Now().Add(patience))
		h := sha256.New()
		_, _ = io.Copy(h, c)
		select {
		case sum <- [sha256.Size]byte(h.Sum(nil)):
		case <-t.Context().Done():
		}
		_, _ = c.Write(answer)
	})
}

// listed is what devices --json says of a device, as far as it is tested.
type listed struct {
	Device  string `json:"device"`
	Session string `json:"session"`
	Carrier string `json:"carrier"`
	Outer   struct {
		TLSVersion  string `json:"tls_version"`
		Verified    bool   `json:"verified"`
		VerifyError string `json:"verify_error"`
		Intercepted bool   `json:"intercepted"`
		Chain       []struct {
			Subject string `json:"subject"`
			Issuer  string `json:"issuer"`
		} `json:"chain"`
	} `json:"outer"`
}

// ready waits until the server lists the device.
func (s *site) ready() listed {
	s.t.Helper()
	return s.listed(func(listed) bool { return true })
}

// listed waits until the server lists the device as it should be.
func (s *site) listed(is func(listed) bool) listed {
	s.t.Helper()
	ctx := bounded(s.t)
	var last []byte
	for ctx.Err() == nil {
		var all []listed
		last = must(s.t, nil, "devices", "--json", "--admin", s.admin())
		if err := json.Unmarshal(last, &all); err != nil {
			s.t.Fatalf("devices --json: %v in %s", err, last)
		}
		for _, d := range all {
			if d.Device == deviceID && is(d) {
				return d
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	s.t.Fatalf("the device is not ready as it should be; the list is %s", last)
	return listed{}
}
