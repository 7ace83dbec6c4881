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
	"testing"
	"time"
)

const bulk = 16 << 20

// TestPathThroughRealBoxes is the main job, through each kind of box.
func TestPathThroughRealBoxes(t *testing.T) {
	for _, b := range boxes {
		t.Run(b.name, func(t *testing.T) {
			program := b.find(t)
			s := newSite(t).serve(!b.plain)
			h := b.start(t, s, program)
			sent, want := pseudoRandom(1), pseudoRandom(2)
			got := make(chan [sha256.Size]byte, 1)
			args := s.deviceArgs(h.url, "--service", "web="+webPage(t), "--service", "bulk=tcp://"+bulkService(t, got, want),
				"--on", "display=sh "+handler(s))
			if h.proxy != "" {
				args = append(args, "--proxy", h.proxy)
			}
			start(t, "device", exec.Command(exe, args...))

			d := s.ready()
			if len(d.Outer.Chain) == 0 || !strings.Contains(d.Outer.Chain[0].Issuer, h.issuer) || d.Outer.TLSVersion == "" || d.Outer.Verified {
				t.Errorf("outer report %+v, want an unverified certificate of %q", d.Outer, h.issuer)
			}
			if intercepted := h.proxy != ""; d.Outer.Intercepted != intercepted {
				t.Errorf("intercepted: %v, want %v", d.Outer.Intercepted, intercepted)
			}
			ack := must(t, strings.NewReader("hello pump"), "push", "--admin", s.admin(), deviceID, "display", "-")
			if strings.TrimSpace(string(ack)) != "showing: hello pump" {
				t.Errorf("ack %q", ack)
			}
			page := must(t, strings.NewReader("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), "dial", "--admin", s.admin(), deviceID, "web")
			resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(page)), nil)
			if err != nil {
				t.Fatalf("the page: %v in %q", err, page)
			}
			if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "pump page" {
				t.Errorf("the page: %q, %v", body, err)
			}
			down := must(t, bytes.NewReader(sent), "dial", "--admin", s.admin(), deviceID, "bulk")
			if sha256.Sum256(down) != sha256.Sum256(want) {
				t.Errorf("%d bytes came from the device, want %d with the same sum", len(down), len(want))
			}
			if <-got != sha256.Sum256(sent) {
				t.Error("the device's service got other bytes than were sent")
			}
		})
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

// bulkService takes one connection, sums what comes until the end of that
// direction, and only then answers.
func bulkService(t *testing.T, sum chan<- [sha256.Size]byte, answer []byte) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { _ = ln.Close(); <-done })
	go func() {
		defer close(done)
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(patience))
		h := sha256.New()
		_, _ = io.Copy(h, c)
		sum <- [sha256.Size]byte(h.Sum(nil))
		_, _ = c.Write(answer)
	}()
	return ln.Addr().String()
}

// listed is what devices --json says of a device, as far as it is tested.
type listed struct {
	Device string `json:"device"`
	Outer  struct {
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
	ctx := bounded(s.t)
	for ctx.Err() == nil {
		var all []listed
		out := must(s.t, nil, "devices", "--json", "--admin", s.admin())
		if err := json.Unmarshal(out, &all); err != nil {
			s.t.Fatalf("devices --json: %v in %s", err, out)
		}
		for _, d := range all {
			if d.Device == deviceID {
				return d
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	s.t.Fatal("the device is not ready")
	return listed{}
}
